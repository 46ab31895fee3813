"""A snapshot is committed whole, or it was never there.

    1  the run's lock is held, and what a crash left is cleaned     lock.py, `clean_leftovers`
    2  there is room for it                                         nothing was touched if not
    3  a new folder .tmp-<step>-<random>
    4  every file: written, fsynced, closed                         data before the manifest
    5  manifest.json: the same, last
    6  the folder is fsynced                                        names before the rename
    7  the folder is renamed to step-<step>                         all of it appears at once
    8  snapshots/ is fsynced                                        the rename before the promise

Only then does `commit` return: the save is promised, and no crash takes it back. Leaving out any one of these steps
loses promised saves or takes wrong data; `tests/crash` shows it for each. Any error ends the attempt: its folder is
removed, the earlier snapshots were never touched, and no fsync is ever tried a second time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from rekindle.errors import RunError
from rekindle.store.atomic import FileWriter, exchange, fsync_folder, random_suffix, rename_new
from rekindle.store.layout import (
    MANIFEST_NAME,
    TEMPORARY_PREFIX,
    TRASH_PREFIX,
    snapshot_path,
    snapshots_path,
)
from rekindle.store.lock import RunLock
from rekindle.store.manifest import FileFacts, encode_manifest, is_safe_name, read_manifest, verify

__all__ = ["Committed", "clean_leftovers", "commit", "move_to_trash", "remove_tree"]

_DEEPEST = 16


@dataclass(frozen=True, slots=True)
class Committed:
    """A snapshot that is on the disk and stays there.

    Attributes:
        step: optimizer updates done.
        path: its folder.
        size_bytes: bytes of its files, without the manifest.
        written: False when the step was there already, valid, and nothing had to be done.
    """

    step: int
    path: str
    size_bytes: int
    written: bool = True


def commit(
    run: RunLock,
    step: int,
    files: Mapping[str, Callable[[FileWriter], None]],
    facts: Mapping[str, object],
    *,
    need_bytes: int = 0,
    replace: bool = False,
) -> Committed:
    """Write a snapshot and return once it is promised.

    A snapshot of the same step that is there and holds is kept as it is; one that does not hold is moved away first.
    With `replace`, the new one takes the place of one that holds, in a single step (the two folders are exchanged);
    where the system cannot do that, the old one is kept.

    Args:
        run: the run's lock.
        step: optimizer updates done.
        files: name -> what writes its bytes, called once, in this order.
        facts: JSON values for the manifest.
        need_bytes: bytes of all files, for the check of the room; 0 skips it.
        replace: write although the step is there, because what belongs to it changed (a run that is now finished).

    Raises:
        RunError: not enough room on the disk, or the lock is no longer ours.
        OSError: the disk is full or failing, or the folder may not be written. The attempt left nothing.
        ValueError: a file's name, or a fact that is not JSON.
    """
    run.require()
    _check_names(files)
    folder = snapshots_path(run.path)
    final = snapshot_path(run.path, step)
    exists = os.path.lexists(final)
    if exists and verify(final) is not None:
        move_to_trash(run, final)
        exists = False
    if exists and not replace:
        return _already_saved(folder, step, final)
    _check_room(folder, need_bytes, final)
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{step}-{random_suffix()}")
    try:
        os.mkdir(temporary)
        written = {name: _write_file(os.path.join(temporary, name), write) for name, write in files.items()}
        body = encode_manifest(step, written, facts)
        _write_file(os.path.join(temporary, MANIFEST_NAME), lambda out: _write_all(out, body))
        fsync_folder(temporary)
        if not exists:
            rename_new(temporary, final)
        elif not exchange(temporary, final):
            _remove_quietly(temporary)
            return _already_saved(folder, step, final)
    except BaseException as error:
        _remove_quietly(temporary)
        _add_note(error, run, step)
        raise
    try:
        fsync_folder(folder)
    except BaseException as error:
        # Its name may not be on the disk, and a second fsync would not tell: it must not be taken for saved.
        with suppress(OSError):
            if exists and exchange(temporary, final):
                _remove_quietly(temporary)
            else:
                move_to_trash(run, final)
        _add_note(error, run, step)
        raise
    if exists:
        _remove_quietly(temporary)  # the old one, now out of the list
    return Committed(step, final, sum(file.size for file in written.values()))


def _already_saved(folder: str, step: int, final: str) -> Committed:
    # It may come from a life that died between the rename and the fsync of the folder.
    fsync_folder(folder)
    return Committed(step, final, read_manifest(final).size_bytes, written=False)


def _add_note(error: BaseException, run: RunLock, step: int) -> None:
    if isinstance(error, OSError):
        if error.filename is None and error.errno is not None:
            error.filename = run.path  # a full disk is noticed by calls that know only a number
        error.add_note(f"while saving step {step} to {run.path}; earlier snapshots are untouched")


def clean_leftovers(run: RunLock) -> list[str]:
    """Remove what a crash left in a run's folder, and return the names; the holder of the lock calls it once.

    What cannot be removed stays: it is in nobody's way.
    """
    run.require()
    removed: list[str] = []
    for folder, prefixes in (
        (snapshots_path(run.path), (TEMPORARY_PREFIX, TRASH_PREFIX)),
        (run.path, (".run.json.tmp-",)),
    ):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        leftovers = [name for name in names if name.startswith(prefixes)]
        removed += [name for name in leftovers if _remove_quietly(os.path.join(folder, name))]
    return removed


def move_to_trash(run: RunLock, path: str) -> None:
    """Take a snapshot out of the list of snapshots, durably, and then delete it.

    Raises:
        OSError: it could not be renamed, or the rename may not be on the disk; the snapshot is then whole.
    """
    run.require()
    folder, name = os.path.split(path)
    trash = os.path.join(folder, f"{TRASH_PREFIX}{name}-{random_suffix()}")
    rename_new(path, trash)
    fsync_folder(folder)
    _remove_quietly(trash)


def remove_tree(path: str) -> None:
    """Delete a folder with all that is in it, or a file; links are removed, never followed.

    Raises:
        OSError: something could not be deleted, or lies too deep to be ours.
    """
    _remove(path, 0)


def _remove(path: str, depth: int) -> None:
    try:
        is_folder = os.lstat(path).st_mode & 0o170000 == 0o040000
        if is_folder:
            if depth > _DEEPEST:
                raise OSError(f"{path} lies too deep to be part of a snapshot")
            for name in os.listdir(path):
                _remove(os.path.join(path, name), depth + 1)
            os.rmdir(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return


def _remove_quietly(path: str) -> bool:
    try:
        remove_tree(path)
    except OSError:
        return False
    return True


def _write_file(path: str, write: Callable[[FileWriter], None]) -> FileFacts:
    with FileWriter(path) as out:
        write(out)
    return FileFacts(out.size, out.digest())


def _write_all(out: FileWriter, data: bytes) -> None:
    out.write(data)


def _check_names(files: Mapping[str, object]) -> None:
    """Refuse names that a manifest may not hold, and pairs that are one file where case does not count."""
    folded: dict[str, str] = {}
    for name in files:
        if not is_safe_name(name) or name.lower() == MANIFEST_NAME:
            raise ValueError(f"{name!r} cannot be the name of a file in a snapshot")
        other = folded.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} are one file on systems that ignore case")


def _check_room(folder: str, need_bytes: int, final: str) -> None:
    if not need_bytes or not hasattr(os, "statvfs"):
        return
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    need = need_bytes + need_bytes // 20
    if need > free:
        raise RunError(
            f"{final}: not enough room on the disk",
            why=f"the snapshot needs {need:,} bytes with 5 % to spare, {free:,} are free; nothing was written",
            do="free some room, or keep fewer snapshots: Run(..., keep_last=2)",
        )
