"""The newest snapshot that holds: what a run goes on from.

Law: looking never writes and never cleans. A snapshot that its manifest does not vouch for is passed over, and said;
one that vanishes while it is looked at (pruned by its writer) is skipped in silence.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from rekindle.store.layout import list_snapshots
from rekindle.store.manifest import Damage, verify

__all__ = ["Found", "newest_good"]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a run's folder.

    Attributes:
        snapshot: path of the newest snapshot that holds, None where none does.
        step: its step, None where there is none.
        passed_over: (name, reason) of the newer ones that do not hold, newest first.
        other_versions: names of those among them that are not damaged, but in a format of another rekindle.
    """

    snapshot: str | None
    step: int | None
    passed_over: tuple[tuple[str, str], ...]
    other_versions: tuple[str, ...] = ()

    @property
    def nothing_holds(self) -> bool:
        """Whether there are snapshots and none of them holds: a run must then not start from nothing."""
        return self.snapshot is None and bool(self.passed_over)


def newest_good(run_path: str | os.PathLike[str], *, digests: bool = True) -> Found:
    """Return the newest snapshot that holds, and what was passed over on the way to it.

    Args:
        run_path: the run's folder.
        digests: compare the SHA-256 of every file; otherwise only their sizes.

    Raises:
        OSError: the folder of the snapshots cannot be listed. A missing one holds nothing.
    """
    passed_over: list[tuple[str, str]] = []
    others: list[str] = []
    for listed in list_snapshots(run_path):
        try:
            damage = _verify_still(listed.path, digests=digests)
        except FileNotFoundError:
            continue
        if damage is None:
            return Found(listed.path, listed.step, tuple(passed_over), tuple(others))
        passed_over.append((listed.name, damage.reason))
        others += [listed.name] if damage.other_version else []
    return Found(None, None, tuple(passed_over), tuple(others))


def _verify_still(path: str, *, digests: bool) -> Damage | None:
    """Verify a snapshot; look again when its writer replaced it meanwhile, so that the old one's end is no damage.

    Raises:
        FileNotFoundError: it is gone, also when it went while it was looked at.
    """
    before = os.lstat(path)
    damage = verify(path, digests=digests)
    if damage is not None:
        after = os.lstat(path)
        if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
            damage = verify(path, digests=digests)
    return damage
