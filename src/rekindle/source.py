"""Bounds-checked byte ranges of a file: the only way that readers touch one.

A `Source` reads with `pread`, not through a memory map: opening a cold 2 GB file through a map costs hundreds of
milliseconds of read-ahead, and a map of a file that another process truncates kills the reader with SIGBUS. Every
read names an offset and a length and is checked against what is really there.

`Bytes` is what writers consume: something with a size that hands out its content in pieces. `ByteRange` is the one
that lies in a file, `BufferBytes` the one that lies in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rekindle.errors import UnreadableFile

__all__ = ["CHUNK_BYTES", "BufferBytes", "ByteRange", "Bytes", "Source"]

CHUNK_BYTES = 8 * 1024**2


class Bytes(Protocol):
    """A run of bytes of known size that can be streamed, whatever holds it."""

    @property
    def size(self) -> int:
        """Number of bytes that `chunks` yields in all."""
        ...

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the content in order, in pieces of at most `chunk_bytes`; a piece is valid until the next one."""
        ...


class Source:
    """A regular file, open for reading; closed by `close` or by leaving a `with` block.

    Args:
        path: the file.

    Raises:
        UnreadableFile: it is a folder, a pipe or a device.
        OSError: it is missing or may not be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file and note its size."""
        self.path = os.fspath(path)
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        # Never block on a pipe that nobody writes to.
        self._fd = os.open(self.path, flags | getattr(os, "O_NONBLOCK", 0))
        status = os.fstat(self._fd)
        if not _is_regular(status.st_mode):
            self.close()
            raise UnreadableFile(
                f"{self.path}: not a regular file",
                why="it is a folder, a pipe or a device",
                do="give the path of a file",
            )
        self.size: int = status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            UnreadableFile: the range does not lie inside the file.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise UnreadableFile(
                f"{self.path}: bytes {offset:,} to {offset + length:,} are wanted, the file has {self.size:,}",
                why="the file was cut short, or a length in it is wrong",
                code="RK-FILE-04",
            )
        pieces = []
        while length:
            piece = _pread(self._fd, min(length, CHUNK_BYTES), offset)
            if not piece:
                raise UnreadableFile(
                    f"{self.path}: the file became shorter while it was read",
                    why="another program is writing it",
                    do="wait until it is complete, then run the command again",
                )
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def head(self, length: int) -> bytes:
        """Return the first `length` bytes, fewer where the file is shorter."""
        return self.read(0, min(length, self.size))

    def range(self, offset: int, length: int) -> ByteRange:
        """Return a lazy range of this file.

        Raises:
            UnreadableFile: the range does not lie inside the file.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            self.read(offset, length)
        return ByteRange(self, offset, length)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Source:
        """Return the source itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A run of bytes in a source.

    Attributes:
        source: the open file.
        offset: first byte.
        size: number of bytes.
    """

    source: Source
    offset: int
    size: int

    def read(self) -> bytes:
        """Return all of it; for small ranges."""
        return self.source.read(self.offset, self.size)

    def sub(self, offset: int, length: int) -> ByteRange:
        """Return the part that starts `offset` bytes into this range.

        Raises:
            UnreadableFile: the part does not lie inside this range.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise UnreadableFile(
                f"{self.source.path}: a part of {length:,} bytes at {offset:,} is wanted of {self.size:,} bytes",
                why="the file was cut short, or a length in it is wrong",
                code="RK-FILE-04",
            )
        return ByteRange(self.source, self.offset + offset, length)

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the content in pieces of at most `chunk_bytes`."""
        at, end = self.offset, self.offset + self.size
        while at < end:
            length = min(chunk_bytes, end - at)
            yield memoryview(self.source.read(at, length))
            at += length


@dataclass(frozen=True, slots=True)
class BufferBytes:
    """A run of bytes in memory.

    Attributes:
        view: a contiguous view of bytes (format ``B``, one dimension).
    """

    view: memoryview

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.view.nbytes

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the content in pieces of at most `chunk_bytes`, without copying."""
        for at in range(0, self.view.nbytes, chunk_bytes):
            yield self.view[at : at + chunk_bytes]


def _is_regular(mode: int) -> bool:
    return mode & 0o170000 == 0o100000


if hasattr(os, "pread"):
    _pread = os.pread
else:  # Windows has no pread; one handle, one reader

    def _pread(fd: int, length: int, offset: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)
