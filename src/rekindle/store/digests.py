"""SHA-256 of blocks of 8 MiB, by several threads.

SHA-256 of a whole file is slower than a good disk and cannot be shared out: each byte waits for the one before. Blocks
can, so a snapshot is digested by as many threads as the machine can spare, and a digest that does not hold says where
in the file the damage lies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from rekindle.store.crew import Crew, spare_threads

__all__ = ["BLOCK_BYTES", "block_count", "digests_of_file"]

BLOCK_BYTES = 8 * 1024**2
_READ_BYTES = 1024**2
_READS_ANYWHERE = hasattr(os, "preadv")


def block_count(size: int, block_bytes: int) -> int:
    """Return of how many blocks a file of `size` bytes is; the last one may be shorter, an empty file has none."""
    return -(-size // block_bytes)


def digests_of_file(fd: int, size: int, block_bytes: int = BLOCK_BYTES, into: memoryview | None = None) -> list[str]:
    """Return the SHA-256 of each block of an open file, in hexadecimal.

    Args:
        fd: of a regular file, open for reading.
        size: bytes of it.
        block_bytes: of each block but the last.
        into: room for all bytes, which are kept there; None drops them.

    Returns:
        As many as `block_count` says. Of a file that ends earlier, the digests are those of what is there.

    Raises:
        OSError: it cannot be read.
    """

    def job(start: int) -> Callable[[], str]:
        end = min(start + block_bytes, size)
        return lambda: _digest_of_range(fd, start, end, None if into is None else into[start:end])

    jobs = [job(start) for start in range(0, size, block_bytes)]
    threads = spare_threads() if _READS_ANYWHERE else 0  # else all share one place in the file
    with Crew(jobs, min(threads, len(jobs) - 1)) as crew:
        return crew.results()


def _digest_of_range(fd: int, start: int, end: int, into: memoryview | None) -> str:
    running = hashlib.sha256()
    spare = memoryview(bytearray(min(end - start, _READ_BYTES))) if into is None else into
    at = start
    while at < end:
        length = min(_READ_BYTES, end - at)
        piece = spare[:length] if into is None else spare[at - start : at - start + length]
        count = _read_at(fd, at, piece)
        if not count:
            break  # it became shorter: the digest will not match
        running.update(piece[:count])
        at += count
    return running.hexdigest()


def _read_at(fd: int, offset: int, into: memoryview) -> int:
    if _READS_ANYWHERE:
        return os.preadv(fd, [into], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, len(into))
    into[: len(data)] = data
    return len(data)
