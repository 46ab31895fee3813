"""Where a run begins or goes on: which folder, which snapshot, which seed.

Law: a run never starts from nothing where something is there that cannot be used, and never goes on in a folder where
that would mix two lines of a run. Nothing here changes a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rekindle.errors import ConfigError, NothingToResume, RunError, SnapshotDamaged
from rekindle.parallel.notes import COMMAND_VARIABLE
from rekindle.run.snapshot import Saved, read
from rekindle.store.find import newest_good
from rekindle.store.layout import is_snapshot_folder, list_snapshots, snapshots_path
from rekindle.store.manifest import verify

__all__ = [
    "FOLDER_VARIABLE",
    "choose_folder",
    "choose_seed",
    "command_of_this_run",
    "find_start",
    "is_snapshot_of",
    "naming_disk_of",
    "open_where_rank_0_did",
    "place_in",
    "refuse_without",
]

FOLDER_VARIABLE = "REKINDLE_RUN_FOLDER"


def choose_folder(folder: str | os.PathLike[str], note: Callable[[str], object]) -> str:
    """Return where the run lives: where the environment says, else where the script says.

    Raises:
        ConfigError: nowhere is said.
        TypeError: it is no text.
    """
    given = os.fspath(folder)
    instead = os.environ.get(FOLDER_VARIABLE)
    if not (instead or given):
        raise ConfigError(
            "the folder of the run is an empty text",
            why="the run would be spread over the folder that the script was started in",
            do='name one: Run("runs/digits")',
        )
    if not isinstance(given, str):
        raise TypeError(f"the folder of a run is a str or a path, not {type(given).__name__}: {given!r}")
    if instead:
        note(f"{FOLDER_VARIABLE} is set: the run lives in {instead}, not in {given}")
        return instead
    return given


def command_of_this_run() -> list[str]:
    """Return the words that started this run, and so resume it: what launched all ranks, else this process.

    No words in a notebook: the kernel's own command resumes nothing.
    """
    try:
        words = json.loads(os.environ.get(COMMAND_VARIABLE, ""))
    except ValueError:
        words = None
    if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        return words
    words = list(getattr(sys, "orig_argv", sys.argv))
    return [] if any(word.endswith("kernel_launcher") for word in words[:3]) else words


def find_start(folder: str, resume: str | os.PathLike[str], note: Callable[[str], object]) -> Saved | None:
    """Return the snapshot to go on from, None to begin.

    Args:
        folder: of the run.
        resume: as `rekindle.Run` takes it.
        note: told one line about each snapshot that is passed over.

    Raises:
        RunError: going on would mix two lines of the run.
        NothingToResume, SnapshotDamaged: `resume` is a path with nothing to go on from; nothing holds.
        OSError: the folder cannot be read.
    """
    there = list_snapshots(folder)
    if resume == "never" and there:
        raise RunError(
            f'{folder}: resume="never", and it has {len(there)} snapshots up to step {there[0].step:,}',
            why="beginning anew here would mix two runs; nothing was touched",
            do=f"give the new run another folder, or move this one away: mv {folder} {folder}.old",
        )
    found = newest_good(folder)
    if found.other_versions:
        raise RunError(
            f"{folder}: {found.other_versions[0]} was written by another version of rekindle",
            why=f"{dict(found.passed_over)[found.other_versions[0]]}; going on from an older one would lose its steps",
            do="pip install --upgrade rekindle",
        )
    for name, reason in found.passed_over:
        note(f"{folder}: passed over {name}: {reason}")
    if found.nothing_holds:
        raise SnapshotDamaged(
            f"{folder}: none of its {len(found.passed_over)} snapshots holds",
            why="; ".join(f"{name}: {reason}" for name, reason in found.passed_over[:3]),
            do="put back a copy of snapshots/, or begin a new run in another folder; nothing was changed here",
        )
    source = None if resume in {"auto", "never", "must"} else os.fspath(resume)
    if found.snapshot is not None:
        if source is not None:
            _refuse_older(folder, source, found.snapshot)
        return read(os.path.abspath(found.snapshot))  # the script may go elsewhere before it is restored
    return None if source is None else read(os.path.abspath(_snapshot_of(source)))


def open_where_rank_0_did(snapshot: str | None, rank: int) -> Saved | None:
    """Return the snapshot that rank 0 goes on from, None where it begins.

    Raises:
        RunError: it is not to be seen from this process.
        SnapshotDamaged: it does not hold any more.
    """
    if snapshot is None:
        return None
    if not os.path.isdir(snapshot):
        raise RunError(
            f"rank {rank} on {platform.node()} does not see {snapshot}, which rank 0 goes on from",
            why="the run's folder is on a disk of rank 0's machine only",
            do="put the run on a file system that all machines share",
        )
    return read(snapshot)


def refuse_without(folder: str, resume: str | os.PathLike[str]) -> None:
    """Refuse ``resume="must"`` where there is no snapshot, before anything is made in the folder.

    Raises:
        NothingToResume: there is none.
        OSError: the folder cannot be read.
    """
    if resume == "must" and not list_snapshots(folder):
        raise NothingToResume(
            f'{folder}: resume="must", and there is no snapshot to go on from',
            do='look at the path; the first launch needs resume="auto"',
        )


def place_in(saved: Saved) -> Mapping[str, Any]:
    """Return where a snapshot says to go on.

    Raises:
        SnapshotDamaged: it does not say.
    """
    place = saved.extra.get("place")
    if not isinstance(place, Mapping):
        raise SnapshotDamaged(
            f"{saved.path}: does not say where in the run it was taken",
            do="move it away, and the same command goes on from the one before it",
        )
    return place


@contextlib.contextmanager
def naming_disk_of(folder: str) -> Iterator[None]:
    """Have every OSError name a path: a full disk is noticed by calls that know only a number (write, fsync)."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = folder
        raise


def is_snapshot_of(folder: str, snapshot: str) -> bool:
    """Tell whether a snapshot lies in a run's own folder."""
    return os.path.realpath(os.path.dirname(snapshot)) == os.path.realpath(snapshots_path(folder))


def choose_seed(folder: str, given: int | None, recorded: object, *, begun: bool) -> int:
    """Return the seed: the recorded one, else the given one, else a new one.

    Args:
        folder: of the run, for the message.
        given: by the script.
        recorded: by an earlier life.
        begun: whether there is a snapshot, so that the seed cannot change any more.

    Raises:
        ConfigError: the run began with another one.
    """
    if not isinstance(recorded, int) or (not begun and given is not None):
        return secrets.randbits(32) if given is None else given
    if given is not None and given != recorded:
        raise ConfigError(
            f"{folder}: the run began with seed {recorded}, and now seed={given}",
            why="order, augmentation and dropout would change in the middle of the run",
            do=f"leave the seed out, use seed={recorded}, or begin a new run in another folder",
        )
    return recorded


def _refuse_older(folder: str, source: str, newest: str) -> None:
    """Refuse an older snapshot of this very run: what came after it would stay, and be taken for newer."""
    if is_snapshot_of(folder, source) and os.path.realpath(source) != os.path.realpath(newest):
        raise RunError(
            f"{folder}: {os.path.basename(source)} is not its newest snapshot, {os.path.basename(newest)} is",
            why="going on from an older one in the same folder would mix two lines of the run",
            do=f"give the new line a folder of its own: Run({folder + '-2'!r}, resume={source!r})",
        )


def _snapshot_of(source: str) -> str:
    """Return the snapshot that a path names: itself, or the newest good one of a run."""
    if is_snapshot_folder(source):
        damage = verify(source)
        if damage is not None:
            raise SnapshotDamaged(f"{source}: {damage.reason}", do="resume from another snapshot")
        return source
    if os.path.isfile(source):
        raise NothingToResume(
            f"{source}: a file, and no snapshot of a run",
            why="a run goes on from a snapshot, which says where in the data it was as well",
            do=f"before run.track, if run.resumed_from is None: take what is in rekindle.load({source!r})",
        )
    found = newest_good(source)
    if found.snapshot is None:
        raise NothingToResume(
            f"{source}: no snapshot to go on from",
            why="; ".join(f"{name}: {reason}" for name, reason in found.passed_over) or "there is none in it",
            do='resume=PATH takes a folder of a run or of one of its snapshots, "auto", "never" or "must"',
        )
    return found.snapshot
