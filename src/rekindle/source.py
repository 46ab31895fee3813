"""Bounds-checked byte ranges of a file: the only way that readers touch one.

A `Source` reads with `pread`, not through a memory map: opening a cold 2 GB file through a map costs hundreds of
milliseconds of read-ahead, and a map of a file that another process truncates kills the reader with SIGBUS. Every
read names an offset and a length and is checked against what is really there.

`Bytes` is what writers consume: something with a size that hands out its content in pieces. `ByteRange` is the one
that lies in a file, `BufferBytes` the one that lies in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rekindle.errors import UnreadableFile

__all__ = ["CHUNK_BYTES", "BufferBytes", "ByteRange", "Bytes", "MemorySource", "NearReader", "Readable", "Source"]

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


class Readable(Protocol):
    """What a reader of a container needs: checked ranges of something with a size and a name."""

    path: str
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; `UnreadableFile` where they do not lie inside."""
        ...

    def head(self, length: int) -> bytes:
        """Return the first `length` bytes, fewer where there are fewer."""
        ...

    def range(self, offset: int, length: int) -> Bytes:
        """Return a lazy range; `UnreadableFile` where it does not lie inside."""
        ...


class Source:
    """A regular file, open for reading; closed by `close` or by leaving a `with` block.

    Args:
        path: the file.
        follow: whether a symbolic link is followed; names that a folder brought with it are not.

    Raises:
        UnreadableFile: it is a folder, a pipe or a device.
        OSError: it is missing or may not be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, follow: bool = True) -> None:
        """Open the file and note its size."""
        self.path = os.fspath(path)
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        if not follow:
            flags |= getattr(os, "O_NOFOLLOW", 0)
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
            raise _outside(self.path, offset, length, self.size)
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

    def will_need(self, offsets: Sequence[int], length: int) -> None:
        """Tell the system which small ranges will be read soon, so that it fetches them side by side.

        Ranges that lie close to the one before are left out, and nothing is asked for a few or for a small file.
        """
        fd = getattr(self, "_fd", -1)  # a window into another source has none of its own
        if fd < 0 or not hasattr(os, "posix_fadvise") or len(offsets) < _WORTH_ASKING or self.size < _AHEAD_BYTES:
            return
        last = -_AHEAD_BYTES
        for offset in offsets:
            if 0 <= offset < self.size and not 0 <= offset - last < _NEAR_BYTES:
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
                last = offset

    def head(self, length: int) -> bytes:
        """Return the first `length` bytes, fewer where the file is shorter."""
        return self.read(0, min(length, self.size))

    def range(self, offset: int, length: int) -> ByteRange:
        """Return a lazy range of this file.

        Raises:
            UnreadableFile: the range does not lie inside the file.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise _outside(self.path, offset, length, self.size)
        return ByteRange(self, offset, length)

    def read_into(self, offset: int, into: memoryview) -> None:
        """Fill a writable view of bytes from `offset`, without a copy in between.

        Raises:
            UnreadableFile: the range does not lie inside the file.
        """
        if offset < 0 or offset + len(into) > self.size:
            raise _outside(self.path, offset, len(into), self.size)
        at = 0
        while at < len(into):
            if hasattr(os, "preadv"):
                count = os.preadv(self._fd, [into[at : at + CHUNK_BYTES]], offset + at)
            else:
                piece = self.read(offset + at, min(len(into) - at, CHUNK_BYTES))
                count = len(piece)
                into[at : at + count] = piece
            if not count:
                raise UnreadableFile(
                    f"{self.path}: the file became shorter while it was read",
                    why="another program is writing it",
                    do="wait until it is complete, then run the command again",
                )
            at += count

    def fileno(self) -> int:
        """Return the descriptor, for who maps the file."""
        return self._fd

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


# Never changed, and not `frozen`, for the reason of `rekindle.tensors.TensorEntry`.
@dataclass(slots=True, unsafe_hash=True)
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

    def read_into(self, into: memoryview) -> None:
        """Fill a writable view of exactly `size` bytes."""
        if len(into) != self.size:
            raise ValueError(f"{len(into)} bytes of room for {self.size}")
        self.source.read_into(self.offset, into)

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


class MemorySource:
    """Bytes in memory, read as a file is: a container inside another one, or a record that had to be inflated.

    Args:
        data: the content.
        path: the name that errors give it.
    """

    def __init__(self, data: bytes, path: str) -> None:
        """Keep the content; nothing is copied."""
        self.path = path
        self.size = len(data)
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            UnreadableFile: the range does not lie inside.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise _outside(self.path, offset, length, self.size)
        return self._data[offset : offset + length]

    def head(self, length: int) -> bytes:
        """Return the first `length` bytes, fewer where there are fewer."""
        return self._data[:length]

    def range(self, offset: int, length: int) -> BufferBytes:
        """Return a view of `length` bytes from `offset`.

        Raises:
            UnreadableFile: the range does not lie inside.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise _outside(self.path, offset, length, self.size)
        return BufferBytes(memoryview(self._data)[offset : offset + length])

    def will_need(self, offsets: Sequence[int], length: int) -> None:
        """Do nothing: all of it is there."""


class NearReader:
    """Many small reads that go forward: read together where they lie close, and alone where gigabytes lie between.

    A file of 100,000 small tensors needs one system call for hundreds of headers; one of 1,000 large tensors needs
    1,000 short ones, and reading ahead would fetch megabytes that nobody looks at.

    Args:
        source: what to read from.
    """

    def __init__(self, source: Readable) -> None:
        """Begin with nothing read."""
        self._source = source
        self._data = b""
        self._start = 0
        self._last = -_NEAR_BYTES

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            UnreadableFile: the range does not lie inside.
        """
        at = offset - self._start
        if at >= 0 and at + length <= len(self._data):
            self._last = offset
            return self._data[at : at + length]
        near = 0 <= offset - self._last < _NEAR_BYTES
        self._last = offset
        if not near:
            return self._source.read(offset, length)
        self._data = self._source.read(offset, max(length, min(_AHEAD_BYTES, self._source.size - offset)))
        self._start = offset
        return self._data[:length]


_WORTH_ASKING = 16
_NEAR_BYTES = 4096
_AHEAD_BYTES = 128 * 1024


def _outside(path: str, offset: int, length: int, size: int) -> UnreadableFile:
    return UnreadableFile(
        f"{path}: bytes {offset:,} to {offset + length:,} are wanted, the file has {size:,}",
        why="the file was cut short, or a length in it is wrong",
        code="RK-FILE-04",
    )


def _is_regular(mode: int) -> bool:
    return mode & 0o170000 == 0o100000


if hasattr(os, "pread"):
    _pread = os.pread
else:  # Windows has no pread; one handle, one reader

    def _pread(fd: int, length: int, offset: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)
