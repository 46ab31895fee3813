"""One writer per run: a lock of the kernel's on the file ``LOCK``.

The kernel drops the lock when its holder dies, however it dies, so it is never judged by age and never broken. A
process that waited for the open file may lock one that was meanwhile replaced: the path is looked at again and the
inode numbers compared. What stands in the file (process, host, job) is for people only.
Source: flock(2).

Law: everything that changes a run's folder takes a `RunLock`, so that nothing can write without holding it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import weakref
from contextlib import suppress
from types import TracebackType

from rekindle.errors import RunError, RunLocked
from rekindle.store.atomic import fsync_folder
from rekindle.store.layout import LOCK_NAME, snapshots_path

__all__ = ["RunLock", "hold", "holder_of"]

_BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class RunLock:
    """The right to change a run's folder, held until `release`, the end of a ``with`` block, or death.

    A forked child (a worker of a DataLoader) does not inherit it: the child's copy is closed at the fork, so that a
    worker that outlives a killed run does not keep the next one out.

    Attributes:
        path: the run's folder.
    """

    def __init__(self, path: str, fd: int) -> None:
        """Take over an open and locked file; use `hold`."""
        self.path = path
        self._fd = fd
        _HELD.add(self)

    @property
    def held(self) -> bool:
        """Whether this process still holds it."""
        return self._fd >= 0

    def require(self) -> None:
        """Make sure that the lock is still held and still the one that others see.

        Raises:
            RunError: it was released, or the folder or its lock file was replaced or deleted meanwhile.
        """
        if not self.held:
            raise RunError(f"{self.path}: the run is closed", do="open it again: rekindle.Run(...)")
        if not _same_file(self._fd, os.path.join(self.path, LOCK_NAME)):
            raise RunError(
                f"{self.path}: the run's folder was moved, replaced or emptied while the run was going on",
                why=f"its {LOCK_NAME} is no longer the file that this process locked",
                do="move the folder back, or start again; nothing was written to the new one",
            )

    def release(self) -> None:
        """Give the run free; releasing twice is harmless. The file stays: deleting it would let two writers in."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):
                os.close(fd)
        _HELD.discard(self)

    def __enter__(self) -> RunLock:
        """Return the lock itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()


def hold(run_path: str | os.PathLike[str]) -> RunLock:
    """Make the run's folder where there is none, and take its lock.

    Whoever gets the lock should call `rekindle.store.commit.clean_leftovers` next.

    Raises:
        RunLocked: another process, or another `Run` of this one, holds it; names both.
        RunError: the file system has no locks.
        OSError: the folder cannot be made or written.
    """
    path = os.path.abspath(run_path)
    make_folder(snapshots_path(path))
    file = os.path.join(path, LOCK_NAME)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        fd = os.open(file, flags, 0o666)
        try:
            _lock(fd, path)
            if _same_file(fd, file):
                _write_holder(fd)
                return RunLock(path, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def holder_of(run_path: str | os.PathLike[str]) -> str:
    """Return who took the lock last, in words for people: ``process 4711 on node3 (job 12)``; "" where nobody says.

    That process need not be alive: only trying to take the lock tells.
    """
    try:
        with open(os.path.join(run_path, LOCK_NAME), "rb") as file:
            holder = json.loads(file.read(4096))
        words = f"process {int(holder['pid'])} on {_plain(holder['host'])}"
        job = holder.get("job")
        return f"{words} (job {_plain(job)})" if job else words
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


def make_folder(path: str) -> None:
    """Make a folder and its missing parents, each one's name brought to the disk.

    Raises:
        OSError: one of them cannot be made, or is a file.
    """
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
        fsync_folder(os.path.dirname(folder))


def _lock(fd: int, path: str) -> None:
    try:
        _try_lock(fd)
    except OSError as error:
        if error.errno in _BUSY:
            holder = holder_of(path)
            if holder.startswith(f"process {os.getpid()} on {socket.gethostname()}"):
                raise RunLocked(
                    f"{path}: this process writes this run already",
                    why=f"another Run of it is open here: {holder} holds the lock",
                    do="call run.close() on that one first; in a notebook: with rk.Run(...) as run:",
                ) from None
            raise RunLocked(
                f"{path}: another process writes this run",
                why=f"{holder or 'a process that did not leave its name'} holds the lock",
                do="wait for it, stop it, or give this run another folder",
            ) from None
        if error.errno in _NO_LOCKS:
            raise RunError(
                f"{path}: the file system has no locks",
                why=f"flock says: {error.strerror}; two processes could write the run at the same time",
                do="put the run on a local disk, or have the file system mounted with flock",
            ) from None
        raise


def _write_holder(fd: int) -> None:
    """Say who we are, for people; a failure changes nothing about the lock."""
    job = next((os.environ[name] for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID") if os.environ.get(name)), None)
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot_id(), "job": job}
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, json.dumps(holder).encode() + b"\n")


def _boot_id() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(64).strip()
    except (OSError, ValueError):
        return None


def _same_file(fd: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _plain(text: object) -> str:
    """Return a text from the lock file without anything that a terminal would obey."""
    return "".join(c if c.isalnum() or c in "._-" else "?" for c in str(text)[:80])


if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> None:
        # One byte far behind the text, so that others can still read who holds it.
        os.lseek(fd, 1_000_000, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    # The lock belongs to the open file, which a fork shares: closing the child's copy leaves the parent's alone.
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
