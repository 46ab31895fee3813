"""The headers of a zip archive, found by their signatures anywhere in a file: nothing has to be where it should be.

A signature may as well stand in a tensor's bytes, so what is found here are candidates; the CRC-32 of the record, or a
second sign of the same place, decides. The whole file is read once.

Facts: PKWARE APPNOTE 6.3.9 (sections 4.3.7, 4.3.9, 4.3.12), PyTorch 2.13 `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from zlib import crc32

from rekindle.errors import LimitExceeded
from rekindle.limits import Limits
from rekindle.source import CHUNK_BYTES, ByteRange, Source

__all__ = ["Central", "Headers", "Local", "checksums_of", "find_headers"]

_LOCAL, _CENTRAL, _DESCRIPTOR, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08", b"PK\x05\x06"
_END_BYTES = 22
_LOCAL_LAYOUT = Struct("<4s5H3L2H")
_CENTRAL_LAYOUT = Struct("<4s6H3L5H2L")
_FULL32 = 0xFFFFFFFF
SIZES_FOLLOW = 8  # flag: CRC and sizes stand behind the data


@dataclass(frozen=True, slots=True)
class Local:
    """A local header as it stands; the numbers are zero where they follow the data.

    Attributes:
        offset: of the header.
        name: as it spells it.
        data_at: where the record's bytes start.
        flags: general purpose flags.
        method: 0 stored, 8 deflated.
        crc32: of the content.
        packed: bytes in the file.
        size: bytes of the content.
    """

    offset: int
    name: str
    data_at: int
    flags: int
    method: int
    crc32: int
    packed: int
    size: int


@dataclass(frozen=True, slots=True)
class Central:
    """An entry of the directory as it stands.

    Attributes:
        offset: of the entry.
        name: as it spells it.
        method: 0 stored, 8 deflated.
        crc32: of the content.
        packed: bytes in the file.
        size: bytes of the content.
        header_at: where it says the local header is, counted from the start of the archive.
    """

    offset: int
    name: str
    method: int
    crc32: int
    packed: int
    size: int
    header_at: int


@dataclass(frozen=True, slots=True)
class Headers:
    """All that looks like a header, each in the order of the file.

    Attributes:
        locals: local headers.
        centrals: entries of the directory.
        descriptors: offsets of what looks like a data descriptor.
        ends: the byte behind what looks like the end of an archive (without a comment: torch writes none).
    """

    locals: tuple[Local, ...]
    centrals: tuple[Central, ...]
    descriptors: tuple[int, ...]
    ends: frozenset[int]


def find_headers(source: Source, limits: Limits) -> Headers:
    """Search a file for headers.

    Raises:
        LimitExceeded: it has more than `Limits.members` of a kind.
    """
    locals_: list[Local] = []
    centrals: list[Central] = []
    descriptors: list[int] = []
    ends: list[int] = []
    for kind, at in _signatures(source):
        if kind == _DESCRIPTOR:
            descriptors.append(at)
        elif kind == _END:
            ends.append(at + _END_BYTES)
        elif kind == _LOCAL:
            local = _local_at(source, at, limits)
            if local is not None:
                locals_.append(local)
        else:
            central = _central_at(source, at, limits)
            if central is not None:
                centrals.append(central)
        if max(len(locals_), len(centrals), len(descriptors), len(ends)) > limits.members:
            raise LimitExceeded(
                f"{source.path}: more than {limits.members:,} headers",
                why="reading is bounded by Limits.members",
                do="raise Limits.members if you trust this file",
            )
    return Headers(tuple(locals_), tuple(centrals), tuple(descriptors), frozenset(ends))


def checksums_of(data: ByteRange) -> tuple[int, int | None]:
    """Return the CRC-32 of a record's bytes, and the one that its descriptor says; None where none follows it."""
    crc = 0
    for chunk in data.chunks():
        crc = crc32(chunk, crc)
    end = data.offset + data.size
    tail = data.source.read(end, min(8, data.source.size - end))
    told = tail[:4] == _DESCRIPTOR and len(tail) == 8
    return crc, int.from_bytes(tail[4:8], "little") or None if told else None


def _signatures(source: Source) -> Iterator[tuple[bytes, int]]:
    base, kept = 0, b""
    while base + len(kept) < source.size:
        start = base + len(kept)
        window = kept + source.read(start, min(CHUNK_BYTES, source.size - start))
        found: list[tuple[int, bytes]] = []
        for kind in (_LOCAL, _CENTRAL, _DESCRIPTOR, _END):
            at = window.find(kind)
            while at >= 0:
                found.append((at, kind))
                at = window.find(kind, at + 4)
        for at, kind in sorted(found):
            yield kind, base + at
        # A signature may lie across the border of two windows; one that ends in this one is not seen again.
        base, kept = base + max(len(window) - 3, 0), window[-3:] if len(window) > 3 else window
        if len(kept) == len(window):
            break


def _local_at(source: Source, at: int, limits: Limits) -> Local | None:
    if at + _LOCAL_LAYOUT.size > source.size:
        return None
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL_LAYOUT.unpack(
        source.read(at, _LOCAL_LAYOUT.size)
    )
    data_at = at + _LOCAL_LAYOUT.size + name_length + extra_length
    if not 0 < name_length <= limits.name_bytes or data_at > source.size:
        return None
    name = source.read(at + _LOCAL_LAYOUT.size, name_length).decode("utf-8", "replace")
    if _FULL32 in {packed, size}:
        extra = source.read(data_at - extra_length, extra_length)
        size, packed, _ = _widened(extra, size, packed, 0)
    return Local(at, name, data_at, flags, method, crc, packed, size)


def _central_at(source: Source, at: int, limits: Limits) -> Central | None:
    if at + _CENTRAL_LAYOUT.size > source.size:
        return None
    fields = _CENTRAL_LAYOUT.unpack(source.read(at, _CENTRAL_LAYOUT.size))
    method, crc, packed, size, name_length, extra_length = (fields[4], *fields[7:12])
    if not 0 < name_length <= limits.name_bytes or at + 46 + name_length + extra_length > source.size:
        return None
    name = source.read(at + 46, name_length).decode("utf-8", "replace")
    header_at = fields[16]
    if _FULL32 in {packed, size, header_at}:
        size, packed, header_at = _widened(source.read(at + 46 + name_length, extra_length), size, packed, header_at)
    return Central(at, name, method, crc, packed, size, header_at)


def _widened(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers, with those of all ones replaced by what the zip64 extra field says."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        body = extra[at + 4 : at + 4 + length]
        if kind == 1:
            wide = [int.from_bytes(body[i : i + 8], "little") for i in range(0, len(body) - 7, 8)]
            numbers = [wide.pop(0) if number == _FULL32 and wide else number for number in (size, packed, offset)]
            return numbers[0], numbers[1], numbers[2]
        at += 4 + length
    return size, packed, offset
