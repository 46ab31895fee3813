"""Reading a new file back while it is written: each piece as soon as the file has it.

What is looked at is what the file gives back, not what was handed to it. Right after the write that costs little, since
the pages still lie in the cache of the core that wrote them: a tenth of what reading all of it in the end costs.

Law: nothing is taken from the writer but places. The checksums are of the file alone.
"""

from __future__ import annotations

import errno
import os
from zlib import crc32

__all__ = ["ReadBack"]

# Small enough for the second-level cache, together with the pages it is read from.
_WINDOW_BYTES = 256 * 1024


class ReadBack:
    """Reads pieces of a file that grows, and computes the CRC-32 of the spans that they make up.

    Pieces that lie close together are read at once: a file of many small tensors costs few system calls.

    Args:
        path: the file; it must be there.

    Attributes:
        crcs: where a span begins -> CRC-32 of its bytes; complete after `finish`.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        """Open the file."""
        self.crcs: dict[int, int] = {}
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        self._buffer = memoryview(bytearray(_WINDOW_BYTES))
        self._near: list[tuple[int, int, int]] = []

    def add(self, span: int, offset: int, size: int) -> None:
        """Tell of a piece that is in the file now; the pieces come in the order of their offsets.

        Args:
            span: the offset at which the span begins that the piece belongs to.
            offset: where the piece begins.
            size: its bytes.

        Raises:
            OSError: it cannot be read, or the file is shorter than was said.
        """
        if self._near and offset + size - self._near[0][1] > _WINDOW_BYTES:
            self.finish()
        self._near.append((span, offset, size))
        if size >= _WINDOW_BYTES:
            self.finish()

    def finish(self) -> None:
        """Read what was told of and not read yet.

        Raises:
            OSError: it cannot be read, or the file is shorter than was said.
        """
        near, self._near = self._near, []
        if not near:
            return
        end = near[-1][1] + near[-1][2]
        for start in range(near[0][1], end, _WINDOW_BYTES):  # more than one where it is a single large piece
            window = self._buffer[: end - start]
            self._fill(start, window)
            for span, offset, size in near:
                part = window[max(offset - start, 0) : max(offset + size - start, 0)]
                self.crcs[span] = crc32(part, self.crcs.get(span, 0))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _fill(self, offset: int, into: memoryview) -> None:
        self._file.seek(offset)
        at = 0
        while at < len(into):
            count = self._file.readinto(into[at:])
            if not count:
                raise OSError(errno.EIO, f"{os.strerror(errno.EIO)}: the file is shorter than what was written")
            at += count
