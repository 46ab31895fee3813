"""The bytes of a conversion on their way: checked against what the source promises, and their places noted.

Law: each byte is seen once, between reading and writing, and its CRC-32 is computed there and then.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zlib import crc32

from rekindle.errors import UnreadableFile
from rekindle.source import CHUNK_BYTES, ByteRange, Bytes
from rekindle.writers.pipe import Lent, Pipe, Span

if TYPE_CHECKING:
    from rekindle.opened import Opened

__all__ = ["Checked", "Placed", "lent", "place_of", "promised_crcs"]


def lent(data: Bytes, out: Pipe) -> Bytes:
    """Return bytes that are read into buffers of the pipe they go to, where they are a range of a file."""
    if isinstance(data, Checked):
        return replace(data, data=lent(data.data, out))
    return Lent(data, out) if isinstance(data, ByteRange) else data


@dataclass(frozen=True, slots=True)
class Placed:
    """The bytes of a tensor, noting where in the output they are put and what their CRC-32 is.

    Attributes:
        key: of the tensor.
        data: its bytes.
        out: where they go.
        places: takes key -> (place, CRC-32), when the last byte has passed.
    """

    key: str
    data: Bytes
    out: Pipe
    places: dict[str, tuple[int, int]]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.data.size

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the pieces; each must be written to `out` before the next is asked for."""
        place, crc = self.out.done, 0
        checked = self.data if isinstance(self.data, Checked) else None
        bare = self.data if checked is None else checked.data
        for chunk in Span(lent(bare, self.out), self.out).chunks(chunk_bytes):
            crc = crc32(chunk, crc)
            yield chunk
        if checked is not None:
            checked.compare(crc)
        self.places[self.key] = place, crc


@dataclass(frozen=True, slots=True)
class Checked:
    """The bytes of a storage, whose CRC-32 is compared when the last of them has passed.

    Attributes:
        data: the bytes.
        source: the file, for the message.
        member: what they are called in it.
        promised: their CRC-32, as the file says it.
    """

    data: Bytes
    source: str
    member: str
    promised: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.data.size

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the pieces."""
        crc = 0
        for chunk in self.data.chunks(chunk_bytes):
            crc = crc32(chunk, crc)
            yield chunk
        self.compare(crc)

    def compare(self, crc: int) -> None:
        """Raise where this is not the CRC-32 that the source promises.

        Raises:
            UnreadableFile: RK-CONV-09.
        """
        if crc != self.promised:
            raise UnreadableFile(
                f"{self.source}: {self.member} is damaged: its CRC-32 is {crc:08x}, the archive says "
                f"{self.promised:08x}",
                why="bytes changed after the file was written: a bad disk, or a bad copy; torch.load does not look",
                do=f"get the file again from its source, or save what is whole: rekindle salvage "
                f"{shlex.quote(self.source)}",
                code="RK-CONV-09",
            )


def place_of(data: Bytes | None) -> tuple[int, int, int]:
    """Return what identifies a range of a file; (0, 0, 0) for anything else."""
    if isinstance(data, ByteRange):
        return id(data.source), data.offset, data.size
    return 0, 0, 0


def promised_crcs(opened: Opened) -> dict[tuple[int, int, int], tuple[str, int]]:
    """Return, by range, the member's name and the CRC-32 that the container promises.

    torch can be told not to compute CRCs and then writes zeros, so a zero promises nothing.
    """
    return {
        place_of(member.data): (member.name, member.crc32)
        for member in opened.members
        if member.crc32 and isinstance(member.data, ByteRange)
    }
