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

`commit` is three calls, which several processes can share: `begin` (steps 1 to 3, by the holder of the lock),
`write_files` (step 4, by anybody who sees the folder, each their own files) and `finish` (steps 5 to 8, by the holder,
with what every writer returned). Whoever fails in between has `abandon` called by the holder.

Digests are taken from memory, by threads of their own, while the bytes are written: SHA-256 is slower than a good disk.
The thread that writes takes its share of what is left once all is written.

A file whose bytes are those of the snapshot before need not be written again: it is a second name (a hard link) of that
file, which stays as long as any snapshot has it. What says that they are the same bytes is their digests, taken from
memory now and from the other manifest; and the file must still have the size, and the time of its last change, that it
had when it was written. Where the system refuses the link, the file is written.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from rekindle.errors import RunError
from rekindle.store.atomic import FileWriter, exchange, fsync_folder, random_suffix, rename_new
from rekindle.store.crew import Crew, spare_threads
from rekindle.store.digests import BLOCK_BYTES
from rekindle.store.layout import (
    MANIFEST_NAME,
    TEMPORARY_PREFIX,
    TRASH_PREFIX,
    snapshot_path,
    snapshots_path,
)
from rekindle.store.lock import RunLock
from rekindle.store.manifest import FileFacts, encode_manifest, is_safe_name, read_manifest, verify
from rekindle.writers import Out

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Committed",
    "Earlier",
    "Pending",
    "Writer",
    "abandon",
    "begin",
    "clean_leftovers",
    "commit",
    "finish",
    "move_to_trash",
    "note_what_was_done",
    "remove_tree",
    "stamp_of",
    "write_files",
]

Writer = Callable[[Out], object]

_DEEPEST = 16
_PUSH_BYTES = 8 * 1024**2


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


@dataclass(frozen=True, slots=True)
class Pending:
    """A snapshot that is being written; what `begin` gives and `finish` takes.

    Attributes:
        step: optimizer updates done.
        folder: where its files go, for `write_files`.
        final: where it will lie.
        replaces: whether it takes the place of a snapshot of the same step.
        already: the step is there and holds, so nothing is to be written; `finish` gives this back.
    """

    step: int
    folder: str
    final: str
    replaces: bool = False
    already: Committed | None = None


@dataclass(frozen=True, slots=True)
class Earlier:
    """The snapshot before, for files that need not be written again.

    Attributes:
        path: its folder.
        files: name -> facts, of its manifest.
        stamps: name -> (device, inode, size, time of the last change in ns) when it was known to hold.
        likely: names that are worth the reading that tells whether their bytes are the same.
    """

    path: str
    files: Mapping[str, FileFacts]
    stamps: Mapping[str, tuple[int, int, int, int]]
    likely: Collection[str]


def commit(
    run: RunLock,
    step: int,
    files: Mapping[str, Writer],
    facts: Mapping[str, object],
    *,
    need_bytes: int = 0,
    replace: bool = False,
    earlier: Earlier | None = None,
) -> Committed:
    """Write a snapshot and return once it is promised.

    A snapshot of the same step that is there and holds is kept as it is; one that does not hold is moved away first.
    With `replace`, the new one takes the place of one that holds, in a single step (the two folders are exchanged);
    where the system cannot do that, the old one is kept.

    Args:
        run: the run's lock.
        step: optimizer updates done.
        files: name -> what writes its bytes, in this order; the same bytes however often it is called, in memory that
            nobody changes before this returns.
        facts: JSON values for the manifest.
        need_bytes: bytes of all files, for the check of the room; 0 skips it.
        replace: write although the step is there, because what belongs to it changed (a run that is now finished).
        earlier: where files may be linked to.

    Raises:
        RunError: not enough room on the disk, or the lock is no longer ours.
        OSError: the disk is full or failing, or the folder may not be written. The attempt left nothing.
        ValueError: a file's name, or a fact that is not JSON.
    """
    _check_names(files)
    pending = begin(run, step, need_bytes=need_bytes, replace=replace)
    if pending.already is not None:
        return pending.already
    try:
        records = write_files(pending.folder, files, earlier=earlier, sync_names=False)
    except BaseException as error:
        abandon(pending)
        note_what_was_done(error, run, step)
        raise
    return finish(run, pending, records, facts)


def begin(run: RunLock, step: int, *, need_bytes: int = 0, replace: bool = False) -> Pending:
    """Make the folder that the files of a snapshot are written into.

    Args:
        run: the run's lock.
        step: optimizer updates done.
        need_bytes: bytes of all files of all writers, for the check of the room; 0 skips it.
        replace: as of `commit`.

    Raises:
        RunError, OSError: as `commit`; nothing was made.
    """
    run.require()
    folder = snapshots_path(run.path)
    final = snapshot_path(run.path, step)
    try:
        exists = os.path.lexists(final)
        damage = verify(final) if exists else None
        if damage is not None and damage.other_version:
            raise RunError(
                f"{final}: there is a snapshot of another version of rekindle",
                why=f"{damage.reason}; nothing was written, and it is untouched",
                do="pip install --upgrade rekindle, or give the run another folder",
            )
        if damage is not None:
            move_to_trash(run, final)
            exists = False
        if exists and not replace:
            return Pending(step, "", final, already=_already_saved(folder, step, final))
        _check_room(folder, need_bytes, final)
        temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{step}-{random_suffix()}")
        os.mkdir(temporary)
    except OSError as error:
        note_what_was_done(error, run, step)
        raise
    return Pending(step, temporary, final, replaces=exists)


def write_files(
    folder: str, files: Mapping[str, Writer], *, earlier: Earlier | None = None, sync_names: bool = True
) -> dict[str, FileFacts]:
    """Write files of a snapshot, each brought to the disk, and return what `finish` must know of them.

    Needs no lock: any process that sees the folder may call it, for names that no other one writes.

    Args:
        folder: of a `Pending`.
        files: name -> what writes its bytes.
        earlier: where files may be linked to.
        sync_names: bring the names to the disk as well, which a writer on another host has to do; the process that
            calls `finish` need not.

    Returns:
        name -> size and digests, plain values that can be sent to the process that finishes.

    Raises:
        OSError: the disk is full or failing; the attempt is dead, and `abandon` removes it.
        ValueError: a file's name.
    """
    _check_names(files)
    likely = [name for name in files if earlier is not None and name in earlier.likely]
    others = [name for name in files if name not in likely]
    blocks = {name: _blocks_of(files[name]) for name in (*likely, *others)}
    jobs = [partial(_digest_of, pieces) for of_file in blocks.values() for pieces in of_file]
    firsts = dict(zip(blocks, accumulate(map(len, blocks.values()), initial=0), strict=False))
    with Crew(jobs, spare_threads()) as crew:

        def facts(name: str) -> FileFacts:
            digests = [crew.result(firsts[name] + at) for at in range(len(blocks[name]))]
            return FileFacts(sum(map(len, chain.from_iterable(blocks[name]))), tuple(digests))

        for name in others:
            _write_file(os.path.join(folder, name), files[name])
        for name in likely:
            path = os.path.join(folder, name)
            if earlier is None or not _link(earlier, name, facts(name), path):
                _write_file(path, files[name])
        records = {name: facts(name) for name in files}
    if sync_names:
        fsync_folder(folder)
    return records


def finish(run: RunLock, pending: Pending, records: Mapping[str, FileFacts], facts: Mapping[str, object]) -> Committed:
    """Write the manifest over all files and move the snapshot into its place; it is promised when this returns.

    Args:
        run: the run's lock.
        pending: from `begin`.
        records: what `write_files` returned, of all writers together.
        facts: JSON values for the manifest.

    Raises:
        RunError, OSError, ValueError: as `commit`. The attempt left nothing.
    """
    if pending.already is not None:
        return pending.already
    step, temporary, final, exists = pending.step, pending.folder, pending.final, pending.replaces
    folder = os.path.dirname(final)
    try:
        run.require()
        _check_names(records)
        body = encode_manifest(step, records, facts)
        _write_file(os.path.join(temporary, MANIFEST_NAME), lambda out: out.write(body))
        fsync_folder(temporary)
        if not exists:
            rename_new(temporary, final)
        elif not exchange(temporary, final):
            _remove_quietly(temporary)
            return _already_saved(folder, step, final)
    except BaseException as error:
        abandon(pending)
        note_what_was_done(error, run, step)
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
        note_what_was_done(error, run, step)
        raise
    if exists:
        _remove_quietly(temporary)  # the old one, now out of the list
    return Committed(step, final, sum(file.size for file in records.values()))


def abandon(pending: Pending) -> None:
    """Remove what an attempt left; what cannot be removed is cleaned by the next life."""
    if pending.folder:
        _remove_quietly(pending.folder)


def stamp_of(path: str) -> tuple[int, int, int, int]:
    """Return what changes when a file does: device, inode, size, time of the last change in ns."""
    status = os.stat(path, follow_symlinks=False)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _Blocks:
    """Takes bytes as a `FileWriter` does, and keeps them as the pieces of each block, without copying."""

    def __init__(self) -> None:
        self.blocks: list[list[memoryview]] = []
        self._room = 0

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            if not self._room:
                self.blocks.append([])
                self._room = BLOCK_BYTES
            piece = view[at : at + self._room]
            self.blocks[-1].append(piece)
            self._room -= len(piece)
            at += len(piece)
        return len(view)


def _blocks_of(write: Writer) -> list[list[memoryview]]:
    """Return the bytes of a file that is not written, as pieces of memory by block."""
    out = _Blocks()
    write(out)
    return out.blocks


def _digest_of(pieces: Sequence[memoryview]) -> str:
    running = hashlib.sha256()
    for piece in pieces:
        running.update(piece)
    return running.hexdigest()


def _link(earlier: Earlier, name: str, facts: FileFacts, path: str) -> bool:
    """Give the earlier snapshot's file a second name if its bytes are those that would be written."""
    stamp = earlier.stamps.get(name)
    if stamp is None or earlier.files.get(name) != facts or not hasattr(os, "link"):
        return False
    there = os.path.join(earlier.path, name)
    try:
        if stamp_of(there) != stamp:
            return False
        os.link(there, path)
        if stamp_of(path) == stamp:
            return True
    except OSError:  # no such calls here, too many names, another file system: it is written
        pass
    with suppress(OSError):
        os.unlink(path)
    return False


def _already_saved(folder: str, step: int, final: str) -> Committed:
    # It may come from a life that died between the rename and the fsync of the folder.
    fsync_folder(folder)
    return Committed(step, final, read_manifest(final).size_bytes, written=False)


def note_what_was_done(error: BaseException, run: RunLock, step: int) -> None:
    """Add to an error of the machine what was being done, and that nothing else is lost.

    Raises:
        RunError: the folder was moved, emptied or deleted meanwhile, which is why it failed.
    """
    if isinstance(error, OSError):
        try:
            run.require()
        except RunError as gone:
            raise gone from error
        if not os.path.isdir(snapshots_path(run.path)):
            raise RunError(
                f"{snapshots_path(run.path)}: was moved or deleted while the run was going on",
                do="move it back, and the same command goes on; without it the run begins anew",
            ) from error
        if error.filename is None and error.errno is not None:
            error.filename = run.path  # a full disk is noticed by calls that know only a number
        error.add_note(f"while saving step {step} to {run.path}; earlier snapshots are untouched")
        if error.errno == errno.ENOSPC and _has_no_names_left(run.path):
            error.add_note("bytes are free on this disk, but no name for another file is (inodes): delete files there")


def _has_no_names_left(path: str) -> bool:
    try:
        status = os.statvfs(path)
    except (OSError, AttributeError):
        return False
    return status.f_files > 0 and status.f_favail < 8 and status.f_bavail > 0


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


def _write_file(path: str, write: Writer) -> None:
    with FileWriter(path, hashing=False) as out:
        write(_Pushing(out))


class _Pushing:
    """Has the disk begin with what was written: less is left for fsync to wait for."""

    def __init__(self, out: FileWriter) -> None:
        self._out = out
        self._pushed = 0

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _PUSH_BYTES):
            self._out.write(view[at : at + _PUSH_BYTES])
            if self._out.size - self._pushed >= _PUSH_BYTES:
                self._out.start_writeback()
                self._pushed = self._out.size
        return len(view)


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
