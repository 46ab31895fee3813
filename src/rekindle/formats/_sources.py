"""Sources for what is spread: a container inside a file, and folders of more files than a process may hold open.

`WindowSource` reads a part of a file as if it were a file of its own; `at_base` turns ranges of it into ranges of the
file, so that whoever maps files into memory never meets a window. `Pool` keeps at most `OPEN_FILES` files of a folder
open and opens the others again when they are read; a file that changed in between is an error, never other bytes.
"""

from __future__ import annotations

import os

from rekindle.errors import UnreadableFile
from rekindle.source import ByteRange, Bytes, Readable, Source

__all__ = ["OPEN_FILES", "Pool", "PooledSource", "WindowSource", "at_base", "rescue_words"]

OPEN_FILES = 64


class WindowSource(Source):
    """A part of a source, read as a file of its own. Closing it closes nothing: the file belongs to somebody else.

    Args:
        base: the open file.
        offset: first byte of the part.
        size: its bytes.
        name: what errors call it.

    Raises:
        UnreadableFile: the part does not lie inside the file.
    """

    def __init__(self, base: Source, offset: int, size: int, name: str) -> None:
        """Check the range; nothing is opened."""
        base.range(offset, size)
        self.base = base
        self.offset = offset
        self.size = size
        self.path = name

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; see `Source.read`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise UnreadableFile(
                f"{self.path}: bytes {offset:,} to {offset + length:,} are wanted, it has {self.size:,}",
                why="the file was cut short, or a length in it is wrong",
                code="RK-FILE-04",
            )
        return self.base.read(self.offset + offset, length)

    def read_into(self, offset: int, into: memoryview) -> None:
        """Fill a writable view of bytes from `offset`; see `Source.read_into`."""
        if offset < 0 or offset + len(into) > self.size:
            self.read(offset, len(into))  # says what is wrong
        self.base.read_into(self.offset + offset, into)

    def fileno(self) -> int:
        """Refuse: who maps a window would map the start of the file."""
        raise OSError(f"{self.path} is a part of a file and has no descriptor of its own")

    def close(self) -> None:
        """Do nothing."""


def rescue_words(source: Readable) -> str:
    """Return what to type when a part of a file is whole; for a part of a file, as for any other, get it again."""
    if type(source) is not Source:
        return "copy or download it again and compare the sizes"
    import shlex  # noqa: PLC0415 - only for damaged files

    return f"rekindle salvage {shlex.quote(source.path)}"


def at_base(data: Bytes | None) -> Bytes | None:
    """Return the same bytes as a range of the file itself where they are a range of a window."""
    while isinstance(data, ByteRange) and isinstance(data.source, WindowSource):
        data = ByteRange(data.source.base, data.source.offset + data.offset, data.size)
    return data


class Pool:
    """The files of one folder, of which few are open at a time; closed all at once."""

    def __init__(self, open_files: int = OPEN_FILES) -> None:
        """Start empty."""
        self._open_files = open_files
        self._sources: dict[str, PooledSource] = {}
        self._open: dict[PooledSource, None] = {}  # the longest unused first
        self.closed = False

    def source(self, path: str) -> PooledSource:
        """Return the source of a file, the same one for the same path.

        Raises:
            UnreadableFile: it is a folder, a pipe or a device.
            OSError: it is missing or may not be read.
        """
        known = self._sources.get(path)
        if known is None:
            known = self._sources[path] = PooledSource(path, self)
        return known

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that were opened."""
        return sum(source.size for source in self._sources.values())

    def used(self, source: PooledSource) -> None:
        """Note that a source is open and was just used; closes the longest unused one where there are too many."""
        self._open.pop(source, None)
        self._open[source] = None
        if len(self._open) > self._open_files:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.release()

    def close(self) -> None:
        """Close all files; closing twice is harmless."""
        self.closed = True
        for source in self._open:
            source.release()
        self._open.clear()


class PooledSource(Source):
    """A file of a `Pool`: opened again where the pool had to close it.

    Args:
        path: the file.
        pool: whose file it is.
    """

    def __init__(self, path: str, pool: Pool) -> None:
        """Open the file and note what it is."""
        self._pool = pool
        super().__init__(path)
        self._identity = _identity(self._fd)
        pool.used(self)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; see `Source.read`."""
        self._be_open()
        return super().read(offset, length)

    def read_into(self, offset: int, into: memoryview) -> None:
        """Fill a writable view of bytes from `offset`; see `Source.read_into`."""
        self._be_open()
        super().read_into(offset, into)

    def fileno(self) -> int:
        """Return a descriptor that is open until other files of the pool are read."""
        self._be_open()
        return super().fileno()

    def _be_open(self) -> None:
        if self._pool.closed:
            raise ValueError(f"{self.path} is read after its folder was closed")
        if self._fd < 0:
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
            self._fd = os.open(self.path, flags | getattr(os, "O_NONBLOCK", 0))
            if _identity(self._fd) != self._identity:
                self.release()
                raise UnreadableFile(
                    f"{self.path}: the file was replaced or changed while the folder was read",
                    why="another program is writing it",
                    do="wait until it is complete, then run the command again",
                )
        self._pool.used(self)

    def release(self) -> None:
        """Close the file; the next read opens it again."""
        super().close()

    def close(self) -> None:
        """Do nothing: the pool closes its files."""


def _identity(fd: int) -> tuple[int, int, int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
