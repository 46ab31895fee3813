"""What can go from a run's folder, and letting it go: what crashes left, and snapshots that nobody needs any more.

Law: the plan is made by looking only, and is made again under the run's lock before anything goes; so a run that
somebody is writing loses nothing. What stays by the rules of `rekindle.store.retention` stays here: the two newest
snapshots that hold, the best one, the newest without NaN.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rekindle.errors import ConfigError, RunLocked, SnapshotDamaged
from rekindle.store.commit import clean_leftovers, move_to_trash
from rekindle.store.layout import METRICS_NAME, list_snapshots
from rekindle.store.lock import RunLock, hold, holder_of
from rekindle.store.manifest import read_manifest, verify
from rekindle.store.retention import LEAST, unwanted
from rekindle.verbs.runs import best_of, in_use, leftovers_of, size_on_disk

__all__ = ["CleanPlan", "Rules", "Superfluous", "clean_run", "plan_cleaning"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What to keep beside what always stays.

    Attributes:
        keep_last: newest snapshots that hold; None keeps all.
        keep_every: multiples of so many steps stay; None for no such rule.
        keep_best: a logged metric whose best snapshot stays: the largest, or the smallest with ``min:``.
        damaged: whether snapshots that do not hold may go, where there are two that do.
    """

    keep_last: int | None = None
    keep_every: int | None = None
    keep_best: str | None = None
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Superfluous:
    """Something that can go.

    Attributes:
        path: of the file or folder.
        kind: ``leftover`` of a crash, ``old`` snapshot, or ``damaged`` one.
        size_bytes: of its files.
        why: in a few words.
    """

    path: str
    kind: Literal["leftover", "old", "damaged"]
    size_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class CleanPlan:
    """What can go from one run.

    Attributes:
        path: the run's folder.
        items: what can go.
        keeps: names of the snapshots that stay, newest first.
        locked: why nothing can go now, "" where it can.
    """

    path: str
    items: tuple[Superfluous, ...]
    keeps: tuple[str, ...]
    locked: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of all that can go."""
        return sum(item.size_bytes for item in self.items)


def plan_cleaning(run_path: str | os.PathLike[str], rules: Rules) -> CleanPlan:
    """Return what can go from a run; changes nothing.

    Raises:
        ConfigError: a rule cannot be meant.
        OSError: the folder cannot be read.
    """
    path = os.fspath(run_path)
    if in_use(path):
        return CleanPlan(path, (), (), f"{holder_of(path) or 'a process'} is writing it")
    return _plan(path, rules)


def clean_run(run_path: str | os.PathLike[str], rules: Rules) -> CleanPlan:
    """Delete what can go, and return it.

    Raises:
        RunError: it could not be done; nothing that is needed was touched.
        ConfigError, OSError: as `plan_cleaning`.
    """
    path = os.fspath(run_path)
    try:
        lock = hold(path)
    except RunLocked as error:
        return CleanPlan(path, (), (), error.why)
    with lock:
        plan = _plan(path, rules)
        clean_leftovers(lock)
        for item in plan.items:
            if item.kind != "leftover":
                _let_go(lock, item)
    return plan


def _let_go(lock: RunLock, item: Superfluous) -> None:
    try:
        move_to_trash(lock, item.path)
    except FileNotFoundError:
        return
    except OSError as error:
        error.add_note(f"while deleting {item.path}; what was not deleted yet is untouched")
        raise


def _plan(path: str, rules: Rules) -> CleanPlan:
    for name, value in (("--keep-last", rules.keep_last), ("--keep-every", rules.keep_every)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value} is less than 1", why="the newest snapshots always stay")
    items = [_leftover(path, name) for name in leftovers_of(path)]
    listed = list_snapshots(path)
    # Digests, not sizes: what is about to be relied upon alone must really hold.
    good = [snapshot for snapshot in listed if verify(snapshot.path) is None] if listed else []
    stay = _steps_that_stay(path, [snapshot.path for snapshot in good], rules)
    gone: set[int] = set()
    if rules.keep_last is not None and len(good) > LEAST:
        for old in unwanted(path, max(rules.keep_last, LEAST), rules.keep_every, stay):
            if old in good and old not in good[: max(rules.keep_last, LEAST)]:
                gone.add(old.step)
                items.append(Superfluous(old.path, "old", size_on_disk(old.path), "superseded by newer ones"))
    if rules.damaged and len(good) >= LEAST:
        for bad in listed:
            damage = None if bad in good else verify(bad.path)
            if damage is not None:
                gone.add(bad.step)
                items.append(Superfluous(bad.path, "damaged", size_on_disk(bad.path), damage.reason))
    return CleanPlan(path, tuple(items), tuple(snapshot.name for snapshot in listed if snapshot.step not in gone))


def _leftover(path: str, name: str) -> Superfluous:
    full = os.path.join(path, name)
    why = "being deleted when a process ended" if ".trash-" in name else "being written when a process ended"
    return Superfluous(full, "leftover", size_on_disk(full), why)


def _steps_that_stay(path: str, good: Sequence[str], rules: Rules) -> set[int]:
    """Return the best step by the run's own rule and by the given one, and the newest without NaN."""
    stay: set[int] = set()
    for snapshot in good[:LEAST]:
        best = best_of(snapshot)
        if best is not None:
            stay.add(best[1])
        try:
            finite = read_manifest(snapshot).facts.get("finite_step")
        except (SnapshotDamaged, OSError):
            continue
        if isinstance(finite, int):
            stay.add(finite)
    if rules.keep_best is not None:
        steps = {listed.step for listed in list_snapshots(path) if listed.path in good}
        stay.add(_best_step(path, rules.keep_best, steps))
    return stay


def _best_step(path: str, rule: str, steps: set[int]) -> int:
    """Return the step among `steps` at which a metric was logged best.

    Raises:
        ConfigError: it was never logged at one of them.
    """
    smallest = rule.startswith("min:")
    metric = rule.removeprefix("min:").removeprefix("max:")
    found: dict[int, float] = {}
    names: set[str] = set()
    file_path = os.path.join(path, METRICS_NAME)
    try:
        with open(file_path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if not isinstance(entry, dict):
                    continue
                names.update(name for name, value in entry.items() if isinstance(value, (int, float)))
                value, step = entry.get(metric), entry.get("step")
                if step in steps and isinstance(value, (int, float)) and not isinstance(value, bool):
                    found[step] = float(value)
    except FileNotFoundError:
        pass
    if not found:
        from rekindle.keys import near_names  # noqa: PLC0415 - only for the message

        near = near_names(metric, names - {"step", "epoch"})
        raise ConfigError(
            f"{file_path}: no {metric} was logged at a step that has a snapshot",
            why=f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(sorted(names)) or 'none'}",
            do="--keep-best METRIC, as it was given to run.log; min:METRIC where small is good",
        )
    return (min if smallest else max)(found, key=lambda step: found[step])
