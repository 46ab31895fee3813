"""Deleting old snapshots, so that a run never loses the one it would need.

Law: two snapshots that hold are always kept, the newest and the one before it, whatever was asked for: digests help
only when there is something to fall back on. Nothing is deleted before those that stay were checked (manifest and
sizes), and nothing is deleted in place: it is renamed, the rename is fsynced, then it is deleted. A prune that fails is
a warning, never an error: the save it follows was promised.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rekindle.store.commit import move_to_trash
from rekindle.store.layout import Listed, list_snapshots
from rekindle.store.lock import RunLock
from rekindle.store.manifest import verify

__all__ = ["LEAST", "Pruned", "prune", "unwanted"]

LEAST = 2


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did.

    Attributes:
        removed: steps that are gone, newest first.
        warning: why it stopped early, in one line; None when all went well.
    """

    removed: tuple[int, ...]
    warning: str | None = None


def prune(
    run: RunLock,
    *,
    keep_last: int | None,
    keep_every: int | None = None,
    keep_steps: Collection[int] = (),
) -> Pruned:
    """Delete the snapshots that nobody wants any more.

    Kept are the newest `keep_last` that hold (at least two), steps that are multiples of `keep_every`, `keep_steps`
    (the best one, one that is being read), and everything newer than the newest that holds.

    Args:
        run: the run's lock.
        keep_last: how many; None keeps all.
        keep_every: in steps; None for no such rule.
        keep_steps: steps that stay whatever the other rules say.

    Raises:
        ValueError: `keep_last` or `keep_every` is less than 1.
    """
    if keep_last is not None and keep_last < 1:
        raise ValueError(f"keep_last is at least 1, or None for all, not {keep_last}")
    if keep_every is not None and keep_every < 1:
        raise ValueError(f"keep_every is at least 1 step, not {keep_every}")
    if keep_last is None:
        return Pruned(())
    removed: list[int] = []
    try:
        for listed in unwanted(run.path, max(keep_last, LEAST), keep_every, keep_steps):
            move_to_trash(run, listed.path)
            removed.append(listed.step)
    except OSError as error:
        return Pruned(tuple(removed), f"old snapshots could not be deleted: {error.strerror or error}")
    return Pruned(tuple(removed))


def unwanted(run_path: str, keep_last: int, keep_every: int | None, keep_steps: Collection[int]) -> list[Listed]:
    """Return what may go by the rules of `prune`, newest first: only what is older than `keep_last` that hold.

    Raises:
        OSError: the folder of the snapshots cannot be listed.
    """
    listed = list_snapshots(run_path)
    good = 0
    for position, snapshot in enumerate(listed):
        if good == keep_last:
            return [
                old
                for old in listed[position:]
                if old.step not in keep_steps and (keep_every is None or old.step % keep_every)
            ]
        try:
            good += verify(snapshot.path, digests=False) is None
        except FileNotFoundError:
            continue
    return []
