"""The runs below a folder: what each would go on from, and whether somebody is writing it.

Law: looking changes nothing and disturbs nobody; not even the lock of a run is tried, since a run that starts at that
moment would find it taken.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rekindle.errors import RunError, SnapshotDamaged, UnreadableFile
from rekindle.store.layout import (
    LOCK_NAME,
    METRICS_NAME,
    STATE_NAME,
    TEMPORARY_PREFIX,
    TRASH_PREFIX,
    Listed,
    is_run_folder,
    list_snapshots,
    read_run_file,
    snapshots_path,
)
from rekindle.store.lock import holder_of
from rekindle.store.manifest import Manifest, read_manifest, verify

__all__ = [
    "RunSummary",
    "SnapshotSummary",
    "best_of",
    "find_runs",
    "in_use",
    "leftovers_of",
    "size_on_disk",
    "summarise_run",
]

_DEEPEST = 4
_TAIL_BYTES = 64 * 1024
_STATE_LIMIT_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class SnapshotSummary:
    """A snapshot.

    Attributes:
        name, path: of its folder.
        step: optimizer updates done.
        epoch: in which it was taken; None where it does not say.
        size_bytes: of its files.
        saved_at: seconds since the epoch.
        damage: what is wrong with it, in one line; "" where it holds, as far as it was looked at.
        finite: whether its parameters are free of NaN and infinity; None where it does not say.
        finished: whether the run was over.
    """

    name: str
    path: str
    step: int
    epoch: int | None
    size_bytes: int
    saved_at: float
    damage: str = ""
    finite: bool | None = None
    finished: bool = False


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run.

    Attributes:
        path: its folder.
        snapshots: newest first.
        metrics: the last logged line; empty where nothing was logged.
        best: (value, step) of the best snapshot by the run's own rule; None where there is none.
        best_rule: the metric, as ``keep_best`` was given; None where there is none.
        command: the words that started it last, and so resume it; empty where they are not known.
        in_use: whether a process is writing it; None where that cannot be told from here.
        holder: who took its lock last, in words; "" where nobody says.
        leftovers: names of what crashes left, which the next start removes.
        size_bytes: of the whole folder.
        fault: why ``run.json`` cannot be read; "" where it can.
    """

    path: str
    snapshots: tuple[SnapshotSummary, ...]
    metrics: Mapping[str, object]
    best: tuple[float, int] | None
    best_rule: str | None
    command: tuple[str, ...]
    in_use: bool | None
    holder: str
    leftovers: tuple[str, ...]
    size_bytes: int
    fault: str = ""

    @property
    def newest(self) -> SnapshotSummary | None:
        """What a resume would go on from; None where nothing holds."""
        return next((snapshot for snapshot in self.snapshots if not snapshot.damage), None)


def find_runs(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths of all runs in a folder, which may be one itself, sorted; links are not followed.

    Raises:
        OSError: the folder cannot be listed.
    """
    path = os.fspath(folder)
    os.listdir(path)  # raises the right error
    return sorted(_runs_in(path, 0))


def _runs_in(path: str, depth: int) -> Iterator[str]:
    if is_run_folder(path):
        yield path
        return
    if depth == _DEEPEST:
        return
    try:
        with os.scandir(path) as entries:
            folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for inner in folders:
        if not os.path.basename(inner).startswith("."):
            yield from _runs_in(inner, depth + 1)


def summarise_run(
    path: str | os.PathLike[str], *, deep: bool = False, progress: Callable[[str], object] | None = None
) -> RunSummary:
    """Return what a run's folder holds.

    Args:
        path: the run's folder.
        deep: compare the digest of every file; otherwise only manifests and sizes.
        progress: called with the name of each snapshot before it is looked at.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = os.fspath(path)
    try:
        about, fault = read_run_file(folder) or {}, ""
    except RunError as error:
        about, fault = {}, error.what
    snapshots = []
    for listed in list_snapshots(folder):
        if progress is not None:
            progress(listed.name)
        found = _summarise_snapshot(listed, deep=deep)
        if found is not None:
            snapshots.append(found)
    newest = next((snapshot for snapshot in snapshots if not snapshot.damage), None)
    settings = about.get("settings")
    rule = settings.get("keep_best") if isinstance(settings, dict) else None
    command = about.get("command")
    return RunSummary(
        folder,
        tuple(snapshots),
        _last_metrics(folder),
        None if newest is None else best_of(newest.path),
        rule if isinstance(rule, str) else None,
        tuple(map(str, command)) if isinstance(command, list) else (),
        in_use(folder),
        holder_of(folder),
        tuple(leftovers_of(folder)),
        size_on_disk(folder),
        fault,
    )


def best_of(snapshot: str) -> tuple[float, int] | None:
    """Return value and step of the best snapshot, as one snapshot remembers it."""
    from rekindle.store.state import decode_state  # noqa: PLC0415 - only where there are snapshots

    try:
        with open(os.path.join(snapshot, STATE_NAME), "rb") as file:
            extra = decode_state(file.read(_STATE_LIMIT_BYTES)).extra
    except (OSError, UnreadableFile):
        return None
    best = extra.get("best") if isinstance(extra, dict) else None
    value, step = (best.get("value"), best.get("step")) if isinstance(best, dict) else (None, None)
    if isinstance(value, (int, float)) and isinstance(step, int):
        return float(value), step
    return None


def leftovers_of(run_path: str) -> list[str]:
    """Return the names of what a crash left in a run's folder: paths relative to it.

    While somebody writes the run, they are his.
    """
    found = []
    for folder, prefixes in (
        (snapshots_path(run_path), (TEMPORARY_PREFIX, TRASH_PREFIX)),
        (run_path, (".run.json.tmp-",)),
    ):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        found += [os.path.relpath(os.path.join(folder, name), run_path) for name in names if name.startswith(prefixes)]
    return sorted(found)


def size_on_disk(path: str) -> int:
    """Return the bytes of all files in a folder, or of a file; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [path]
    while waiting:
        current = waiting.pop()
        try:
            status = os.lstat(current)
            if status.st_mode & 0o170000 == 0o040000:
                waiting += [os.path.join(current, name) for name in os.listdir(current)]
            elif (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
        except OSError:  # gone meanwhile, or not ours to look at
            continue
    return total


def in_use(run_path: str) -> bool | None:
    """Tell whether a process on this machine holds a run's lock; None where that cannot be told.

    On Linux the kernel's list of locks is read. Elsewhere, and where the lock was last taken on another machine (a
    shared file system), nobody can tell without trying to take it.
    """
    try:
        with open(os.path.join(run_path, LOCK_NAME), "rb") as file:
            status = os.fstat(file.fileno())
            holder = json.loads(file.read(4096) or b"{}")
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        holder = {}
        try:
            status = os.stat(os.path.join(run_path, LOCK_NAME))
        except OSError:
            return None
    holder = holder if isinstance(holder, dict) else {}
    if sys.platform.startswith("linux"):
        held = _held_here(status, holder.get("pid"))
        if held or holder.get("host") in (None, os.uname().nodename):
            return held
    return None


def _held_here(status: os.stat_result, pid: object) -> bool | None:
    """Look for a lock in the kernel's list: ``1: FLOCK ADVISORY WRITE 4711 fe:01:131 0 EOF`` (proc(5))."""
    try:
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[3] == "WRITE":
            where, _, inode = words[5].rpartition(":")
            # File systems made of layers give their files another device than the kernel's list does.
            if inode == str(status.st_ino) and (where == device or words[4] == str(pid)):
                return True
    return False


def _summarise_snapshot(listed: Listed, *, deep: bool) -> SnapshotSummary | None:
    """Return what is to say about a snapshot; None where it went while it was looked at."""
    try:
        saved_at = os.stat(listed.path).st_mtime
        damage = verify(listed.path, digests=deep)
        manifest = _manifest(listed.path)
    except FileNotFoundError:
        return None
    facts = {} if manifest is None else manifest.facts
    epoch, finite_step = facts.get("epoch"), facts.get("finite_step", "not said")
    return SnapshotSummary(
        listed.name,
        listed.path,
        listed.step,
        epoch if isinstance(epoch, int) else None,
        size_on_disk(listed.path) if manifest is None else manifest.size_bytes,
        saved_at,
        "" if damage is None else damage.reason,
        None if finite_step == "not said" else finite_step == listed.step,
        facts.get("finished") is True,
    )


def _manifest(path: str) -> Manifest | None:
    try:
        return read_manifest(path)
    except SnapshotDamaged:
        return None
    except FileNotFoundError:
        raise
    except OSError:
        return None


def _last_metrics(run_path: str) -> dict[str, object]:
    """Return the last whole line of ``metrics.jsonl``."""
    try:
        with open(os.path.join(run_path, METRICS_NAME), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines[:-1]):  # what stands behind the last line end is being written
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return {}
