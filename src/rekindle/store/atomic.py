"""Files that are there whole or not at all, also after a power cut.

Four facts of POSIX file systems shape this file. Bytes that were written are not on the disk before `fsync` of the
file returned, and a name is not before `fsync` of its folder did. A failed `fsync` drops the bytes and a second one
reports success, so it is never tried again: the attempt is dead. `rename` is atomic for whoever looks, and orders
nothing on the disk by itself. Errors of a full disk may arrive at `write`, at `fsync` or only at `close`, so all three
are checked. Sources: fsync(2), rename(2), close(2) of Linux; Rebello et al., "Can Applications Recover from fsync
Failures?", ATC 2020; Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.

Law: every change goes through the functions of `os` by name (`os.open`, `os.write`, `os.fsync`, `os.rename`, ...), or
through `rename_new` and `exchange`, so that a test can kill a process before, in and after each one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING

from rekindle.errors import CannotWrite

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["FileWriter", "exchange", "fsync_folder", "random_suffix", "rename_new", "write_beside"]

_PIECE_BYTES = 8 * 1024**2
_PARALLEL_BYTES = 1024**2

_WRITE_NEW = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class FileWriter:
    """A new file, open for writing from start to end.

    Leaving a ``with`` block calls `finish` when all went well and `abandon` (which leaves the file) when not.

    Args:
        path: must not exist; a dangling symbolic link counts as existing.
        hashing: keep a running SHA-256 (about 1.8 GB/s on one core).

    Attributes:
        path: where it lies.
        size: bytes written so far.

    Raises:
        FileExistsError: there is something at `path`.
        OSError: the file cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str], *, hashing: bool = True) -> None:
        """Create the file."""
        self.path = os.fspath(path)
        self.size = 0
        self._pushed = 0
        self._hash = hashlib.sha256() if hashing else None
        self._fd = os.open(self.path, _WRITE_NEW, 0o666)

    def write(self, data: Buffer) -> int:
        """Append the bytes of a contiguous buffer and return their number; all are written, or an OSError is raised."""
        view = memoryview(data).cast("B")
        if self._hash is None:
            self._write(view)
        elif len(view) < _PARALLEL_BYTES:
            self._hash.update(view)
            self._write(view)
        else:  # both let go of the interpreter: hashing costs no time while another core is free
            hashing = Thread(target=self._hash.update, args=(view,))
            hashing.start()
            try:
                self._write(view)
            finally:
                hashing.join()
        self.size += len(view)
        return len(view)

    def _write(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            at += os.write(self._fd, view[at : at + _PIECE_BYTES])

    def start_writeback(self) -> None:
        """Let the kernel begin to bring to the disk what was written since the last call; a hint, without a promise.

        `finish` then finds little left to wait for. Does nothing where the system has no such call.
        """
        start = _start_writeback()
        if start is not None and self._fd >= 0:
            start(self._fd, self._pushed, self.size - self._pushed)
            self._pushed = self.size

    def digest(self) -> str:
        """Return the SHA-256 of what was written so far, in hexadecimal.

        Raises:
            ValueError: the writer was made with ``hashing=False``.
        """
        if self._hash is None:
            raise ValueError(f"{self.path} is written without a digest: FileWriter(..., hashing=False)")
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Bring the bytes to the disk and close the file.

        Raises:
            OSError: they may not be there; the file must be thrown away and written again under a new name.
        """
        try:
            _fsync(self._fd)
        except BaseException:
            self.abandon()
            raise
        fd, self._fd = self._fd, -1
        os.close(fd)

    def abandon(self) -> None:
        """Close the file without asking for anything; closing twice is harmless. The file stays where it is."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):
                os.close(fd)

    def __enter__(self) -> FileWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or abandon it when the block failed."""
        if error is not None:
            self.abandon()
        elif self._fd >= 0:
            self.finish()


@contextmanager
def write_beside(
    path: str | os.PathLike[str], *, overwrite: bool = True, hashing: bool = False
) -> Iterator[FileWriter]:
    """Write a file under a temporary name beside `path`, and move it there once it is whole and on the disk.

    On any error the temporary file is removed and what was at `path` is untouched. A symbolic link is followed: the
    file it names is the one replaced. The mode of a file that is replaced is kept.

    Args:
        path: the target.
        overwrite: replace a file that is there; otherwise `FileExistsError`, also when it appears meanwhile.
        hashing: keep a running SHA-256 for `FileWriter.digest`.

    Yields:
        The writer; the block need not finish it.

    Raises:
        CannotWrite: `path` is a folder, a device or a pipe.
        FileExistsError: with ``overwrite=False``.
        OSError: the folder is missing or not writable, the disk is full, ...

    Example:
        >>> import os, tempfile
        >>> target = os.path.join(tempfile.mkdtemp(), "a.bin")
        >>> with write_beside(target) as out:
        ...     out.write(b"whole")
        5
    """
    target = os.path.realpath(path)
    mode = _mode_of_target(target, os.fspath(path), overwrite=overwrite)
    folder, name = os.path.split(target)
    # A long name would make the temporary one too long for the file system.
    writer = FileWriter(os.path.join(folder, f".{name[:100]}.tmp-{random_suffix()}"), hashing=hashing)
    try:
        yield writer
        if mode is not None and hasattr(os, "fchmod"):
            os.chmod(writer.path, mode)
        if writer._fd >= 0:  # noqa: SLF001 - this module's own class
            writer.finish()
        if overwrite:
            _unless_done(os.replace, os.lstat(writer.path), writer.path, target)
        else:
            rename_new(writer.path, target)
    except BaseException as error:
        writer.abandon()
        with suppress(OSError):
            os.unlink(writer.path)
        if isinstance(error, OSError):
            error.add_note(f"while writing {os.fspath(path)}; the temporary file is removed, nothing else was changed")
        raise
    fsync_folder(folder)


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Bring the names in a folder to the disk.

    Does nothing where folders cannot be synced at all: on Windows, and on file systems that answer EINVAL.

    Raises:
        OSError: the names may not be there after a power cut.
    """
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        _fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def rename_new(old: str, new: str) -> None:
    """Rename a file or folder to a name that must be free.

    Linux does that in one step (renameat2 with RENAME_NOREPLACE). Elsewhere the name is looked at first: enough for
    folders, since `rename` replaces only an empty one, and for the one process that holds a run's lock.

    Raises:
        FileExistsError: there is something at `new`.
        OSError: the rename failed.
    """
    renameat2 = _renameat2()
    mine = os.lstat(old)
    if renameat2 is not None:
        code = renameat2(os.fsencode(old), os.fsencode(new), _RENAME_NOREPLACE)
        if code == 0 or (code in _DOUBTFUL and _has_moved(mine, old, new)):
            return
        if code not in _UNSUPPORTED:
            raise OSError(code, os.strerror(code), old, None, new)
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), old, None, new)
    _unless_done(os.rename, mine, old, new)


def _unless_done(move: Callable[[str, str], None], mine: os.stat_result, old: str, new: str) -> None:
    """Move a file, and let an error pass that comes although it was moved."""
    try:
        move(old, new)
    except OSError as error:
        if error.errno not in _DOUBTFUL or not _has_moved(mine, old, new):
            raise


def exchange(old: str, new: str) -> bool:
    """Let two files or folders change names in one step; False, and nothing done, where the system cannot do that.

    Raises:
        OSError: one of them is missing, or the folder may not be written.
    """
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    code = renameat2(os.fsencode(old), os.fsencode(new), _RENAME_EXCHANGE)
    if code in _UNSUPPORTED:
        return False
    if code:
        raise OSError(code, os.strerror(code), old, None, new)
    return True


def _has_moved(status: os.stat_result, old: str, new: str) -> bool:
    """Tell whether a rename that reported an error happened: over NFS, a request sent twice fails the second time."""
    try:
        there = os.lstat(new)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (there.st_dev, there.st_ino) and not os.path.lexists(old)


def random_suffix() -> str:
    """Return sixteen random hexadecimal digits for a name that was never used before."""
    return os.urandom(8).hex()


def _fsync(fd: int) -> None:
    os.fsync(fd)
    if sys.platform == "darwin":  # there fsync leaves the bytes in the drive's own cache
        import fcntl  # noqa: PLC0415 - not on Windows

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)


def _mode_of_target(target: str, given: str, *, overwrite: bool) -> int | None:
    """Return the permission bits of the file that will be replaced, None where there is none."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return None
    kind = status.st_mode & 0o170000
    if kind == 0o040000:
        raise CannotWrite(f"{given}: is a folder", do="give the name of a file in it")
    if kind != 0o100000:
        raise CannotWrite(f"{given}: is not a regular file", why="it is a device, a pipe or a socket")
    if not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), given)
    return status.st_mode & 0o777


_SYNC_FILE_RANGE_WRITE = 2


def _start_writeback() -> Callable[[int, int, int], None] | None:
    """Return a function (descriptor, offset, length) over Linux' sync_file_range, None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # noqa: PLC0415 - 8 ms that only writers pay

    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is None:
        return None

    def call(fd: int, offset: int, length: int) -> None:
        function(
            ctypes.c_int(fd), ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
        )

    return call


_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_DOUBTFUL = (errno.ENOENT, errno.EEXIST)
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def _renameat2() -> Callable[[bytes, bytes, int], int] | None:
    """Return a function (old, new, flags) -> errno over Linux' renameat2, None where libc has none."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # noqa: PLC0415 - 8 ms that only writers pay

    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28 and later
    if function is None:
        return None

    def call(old: bytes, new: bytes, flags: int) -> int:
        done: int = function(
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(old),
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(new),
            ctypes.c_uint(flags),
        )
        return 0 if done == 0 else ctypes.get_errno()

    return call
