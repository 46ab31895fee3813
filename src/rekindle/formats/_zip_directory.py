"""The directory of a zip archive, read with every claim checked against the file; shared by all formats inside zips.

Theory: the directory at the end names each record and where its local header stands; the local header repeats the name
and is followed by the data. torch writes zeros for sizes and CRC in local headers (the truth follows the data in a
descriptor), so only signature and name of a local header are compared. Whatever is wrong becomes a finding, and a
record whose bytes cannot be trusted has no `data`. Nothing is ever written to a path that a record names.

Facts: PKWARE APPNOTE 6.3.9 (sections 4.3 and 4.5.3), PyTorch 2.13 `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.limits import Limits
from rekindle.source import CHUNK_BYTES, ByteRange, Bytes, NearReader, Source

__all__ = ["Directory", "InflatedBytes", "ZipRecord", "inflate", "read_directory", "walk_local_headers"]

LOCAL = b"PK\x03\x04"
DESCRIPTOR = b"PK\x07\x08"
_CENTRAL = b"PK\x01\x02"
_END = b"PK\x05\x06"
_END64 = b"PK\x06\x06"
_LOCATOR64 = b"PK\x06\x07"

_END_LAYOUT = Struct("<4s4H2LH")  # signature, disk, disk of directory, entries here, entries, size, offset, comment
_END64_LAYOUT = Struct("<4sQ2H2L4Q")  # signature, own size, versions, disks, entries here, entries, size, offset
_LOCATOR_LAYOUT = Struct("<4sLQL")
_CENTRAL_LAYOUT = Struct("<4s6H3L5H2L")
_LOCAL_LAYOUT = Struct("<4s5H3L2H")
_EXTRA64 = 0x0001
_FULL32 = 0xFFFFFFFF
_FULL16 = 0xFFFF

# End of the directory, number of records, size and offset of the directory, end of the archive.
_End = tuple[int, int, int, int, int]

# An inflated record may be this many times larger than its bytes in the file, once it is over 64 MiB.
_MAX_RATIO = 200
_FREE_BYTES = 64 * 1024**2


@dataclass(slots=True)
class ZipRecord:
    """One record of an archive.

    Attributes:
        name: as the directory spells it.
        size: bytes of its content.
        crc32: of its content, as the directory says; 0 where the writer did not compute it.
        offset: of its local header in the file.
        raw: its bytes in the file, compressed or not; None where they cannot be trusted.
        data: its content; None where it cannot be trusted or read.
        compressed: whether the content has to be inflated.
    """

    name: str
    size: int
    crc32: int
    offset: int
    raw: ByteRange | None
    data: Bytes | None
    compressed: bool


@dataclass(frozen=True, slots=True)
class Directory:
    """What the directory of an archive says.

    Attributes:
        records: in the order of the directory; names are unique.
        prepended: bytes in front of the archive.
        trailing: bytes behind it.
    """

    records: tuple[ZipRecord, ...]
    prepended: int
    trailing: int


@dataclass(frozen=True, slots=True)
class InflatedBytes:
    """The content of a deflated record, inflated while it is read and never beyond its declared size.

    Attributes:
        raw: the deflated bytes.
        size: bytes after inflating, as the directory says.
        name: of the record, for errors.
    """

    raw: ByteRange
    size: int
    name: str

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the content in pieces of at most `chunk_bytes`.

        Raises:
            UnreadableFile: the bytes do not inflate to exactly the declared size.
        """
        import zlib  # noqa: PLC0415 - only archives that another tool packed again need it

        machine = zlib.decompressobj(-15)
        given = 0
        try:
            for piece in self.raw.chunks():
                pending: bytes = bytes(piece)
                while pending:
                    out = machine.decompress(pending, min(chunk_bytes, self.size - given + 1))
                    given += len(out)
                    if given > self.size or (not out and machine.unconsumed_tail == pending):
                        raise _does_not_inflate(self)
                    if out:
                        yield memoryview(out)
                    pending = machine.unconsumed_tail
            out = machine.flush(1)
        except zlib.error as error:
            raise _does_not_inflate(self) from error
        if out or given != self.size or not machine.eof:
            raise _does_not_inflate(self)


def inflate(data: Bytes, limit: int, name: str) -> bytes:
    """Return all of a record's content.

    Raises:
        LimitExceeded: it is larger than `limit` bytes.
        UnreadableFile: it does not inflate.
    """
    if data.size > limit:
        raise LimitExceeded(
            f"{name} has {data.size:,} bytes, more than the {limit:,} that are read of a pickle",
            why="reading is bounded by Limits.pickle_bytes, so that a file cannot fill the memory",
            do="raise Limits.pickle_bytes if you trust this file",
        )
    return data.read() if isinstance(data, ByteRange) else b"".join(data.chunks())


def read_directory(source: Source, limits: Limits, findings: list[Finding]) -> Directory | None:
    """Read the directory of an archive; None where the file has none (it was cut, or is no archive).

    Raises:
        LimitExceeded: more members than `Limits.members`.
    """
    end = _find_end(source)
    if end is None:
        return None
    at, count, size, offset, stated_end = end
    start = at - size  # where the directory is; `offset` is where it thinks it is
    prepended = start - offset
    if start < 0 or prepended < 0:
        findings.append(
            _finding(
                "RK-FILE-05",
                "broken-directory",
                f"the directory that closes the archive cannot have {size:,} bytes at {offset:,}, as its end says",
                where=Where(offset=at),
            )
        )
        return None
    if count > limits.members:
        raise LimitExceeded(
            f"{source.path}: {count:,} members in one archive",
            why=f"reading is bounded by Limits.members = {limits.members:,}",
            do="raise Limits.members if you trust this file",
        )
    trailing = source.size - stated_end
    records = _read_records(source, source.read(start, size), start, count, prepended, limits, findings)
    _report_surroundings(prepended, trailing, findings)
    return Directory(tuple(_without_overlaps(records, start, findings)), prepended, trailing)


def walk_local_headers(source: Source, sizes: dict[str, int]) -> Iterator[tuple[str, int, int, bool]]:
    """Yield (name, offset of the data, size, whole) of the records of a cut archive, in order, from its local headers.

    Local headers written by torch do not say how long a record is. The caller knows it for those that matter and gives
    it in `sizes` by the last part of the name's path (``data.pkl``, ``data/0``); others are found by their descriptor
    within 4,096 bytes. The walk ends at the first record whose end is not known or not in the file.
    """
    at = 0
    while at + _LOCAL_LAYOUT.size <= source.size:
        fields = _LOCAL_LAYOUT.unpack(source.read(at, _LOCAL_LAYOUT.size))
        name_length, extra_length = fields[9], fields[10]
        data_at = at + _LOCAL_LAYOUT.size + name_length + extra_length
        if fields[0] != LOCAL or data_at > source.size:
            return
        name = source.read(at + _LOCAL_LAYOUT.size, name_length).decode("utf-8", "replace")
        size = sizes.get(name.partition("/")[2])
        if size is None:
            size = fields[8] or _size_by_descriptor(source, data_at)
        if size is None or data_at + size > source.size:
            yield name, data_at, source.size - data_at if size is None else size, False
            return
        yield name, data_at, size, True
        at = data_at + size
        tail = source.read(at, min(24, source.size - at))
        if tail.startswith(DESCRIPTOR):
            # 24 bytes where offset or size need 64 bits, else 16: the next signature tells.
            at += 24 if tail[16:18] != b"PK" and (size >= _FULL32 or at >= _FULL32) else 16


def _size_by_descriptor(source: Source, data_at: int) -> int | None:
    window = source.read(data_at, min(4096, source.size - data_at))
    found = window.find(DESCRIPTOR)
    while found >= 0:
        if int.from_bytes(window[found + 12 : found + 16], "little") == found:
            return found
        found = window.find(DESCRIPTOR, found + 1)
    return None


def _find_end(source: Source) -> _End | None:
    """Return what the end record says, None where there is none."""
    length = min(source.size, _END_LAYOUT.size + 0xFFFF)
    base = source.size - length
    tail = source.read(base, length)
    found = tail.rfind(_END)
    while found >= 0:
        if found + _END_LAYOUT.size <= length:
            fields = _END_LAYOUT.unpack_from(tail, found)
            end = base + found + _END_LAYOUT.size + fields[7]
            if end <= source.size:
                return _with_zip64(source, base + found, fields[4], fields[5], fields[6], end)
        found = tail.rfind(_END, 0, found)
    return None


def _with_zip64(
    source: Source, at: int, count: int, size: int, offset: int, end: int
) -> tuple[int, int, int, int, int]:
    locator_at = at - _LOCATOR_LAYOUT.size
    record_at = locator_at - _END64_LAYOUT.size
    if record_at >= 0:
        signature, _, stated, _ = _LOCATOR_LAYOUT.unpack(source.read(locator_at, _LOCATOR_LAYOUT.size))
        if signature == _LOCATOR64:
            # The record may carry an extensible part; where nothing was prepended, the locator says where it starts.
            for candidate in (record_at, stated):
                if 0 <= candidate <= record_at:
                    fields = _END64_LAYOUT.unpack(source.read(candidate, _END64_LAYOUT.size))
                    if fields[0] == _END64:
                        return candidate, fields[7], fields[8], fields[9], end
    return at, count, size, offset, end


@dataclass(slots=True)
class _Entry:
    """What the directory says of one record; offsets are in the file."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc32: int
    packed: int
    size: int
    offset: int


def _read_records(
    source: Source, blob: bytes, start: int, count: int, prepended: int, limits: Limits, findings: list[Finding]
) -> list[ZipRecord]:
    entries = _read_entries(source, blob, start, count, prepended, limits, findings)
    # On a cold file each local header is a trip to the disk: ask for all of them at once.
    source.will_need([entry.offset for entry in entries], 4096)
    headers = NearReader(source)
    records: dict[str, ZipRecord] = {}
    for entry in entries:
        if entry.name in records:
            findings.append(
                _finding(
                    "RK-FILE-11",
                    "duplicate-member",
                    f"the archive names {entry.name} twice; readers differ in which one they take, here it is the last",
                    why="archives with two readings are made to show one thing to a scanner and another to a loader",
                    where=Where(member=entry.name, offset=entry.offset),
                )
            )
        records[entry.name] = _check_record(source, headers, entry, start, findings)
    return list(records.values())


def _read_entries(
    source: Source, blob: bytes, start: int, count: int, prepended: int, limits: Limits, findings: list[Finding]
) -> list[_Entry]:
    entries: list[_Entry] = []
    at = 0
    unpack = _CENTRAL_LAYOUT.unpack_from
    while at + 46 <= len(blob):
        fields = unpack(blob, at)
        if fields[0] != _CENTRAL:
            break
        _, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = fields[:13]
        offset = fields[16]
        name_at = at + 46
        extra_at = name_at + name_length
        if extra_at + extra_length + comment_length > len(blob):
            break
        at = extra_at + extra_length + comment_length
        if len(entries) == limits.members:
            raise LimitExceeded(
                f"{source.path}: more than {limits.members:,} members in one archive",
                why="reading is bounded by Limits.members",
                do="raise Limits.members if you trust this file",
            )
        raw_name = blob[name_at:extra_at]
        name = _decode_name(raw_name, flags, limits, findings)
        if _FULL32 in {packed, size, offset}:
            size, packed, offset = _widen(blob[extra_at : extra_at + extra_length], size, packed, offset)
        entries.append(_Entry(name, raw_name, flags, method, crc, packed, size, offset + prepended))
    if len(entries) != count or at != len(blob):
        findings.append(
            _finding(
                "RK-FILE-05",
                "broken-directory",
                f"the directory announces {count:,} members in {len(blob):,} bytes; {len(entries):,} are in {at:,}",
                why="the end of the file was overwritten or made up",
                where=Where(offset=start + at),
            )
        )
    return entries


def _check_record(source: Source, headers: NearReader, entry: _Entry, limit: int, findings: list[Finding]) -> ZipRecord:
    """Compare one entry of the directory with its local header; `limit` is where the directory starts."""
    broken = ""
    name, offset, packed, size, crc = entry.name, entry.offset, entry.packed, entry.size, entry.crc32
    method, raw_name = entry.method, entry.raw_name
    data_at = offset + 30
    if offset + 30 + len(raw_name) > limit:
        broken = f"its local header should stand at {offset:,}, behind the last record"
    else:
        header = headers.read(offset, 30 + len(raw_name))
        signature, _, _, local_method, _, _, _, _, _, name_length, extra_length = _LOCAL_LAYOUT.unpack_from(header)
        data_at = offset + 30 + name_length + extra_length
        if signature != LOCAL:
            broken = f"there is no local header at {offset:,}"
        elif header[30:] != raw_name or name_length != len(raw_name):
            broken = f"the local header at {offset:,} has another name"
        elif data_at + packed > limit:
            broken = f"its {packed:,} bytes at {data_at:,} reach into the directory at {limit:,}"
        elif local_method != method:
            broken = f"the local header at {offset:,} names another compression"
    if broken:
        findings.append(
            _finding(
                "RK-FILE-05",
                "broken-directory",
                f"{name}: {broken}",
                why="the file was cut, overwritten or made up",
                where=Where(member=name, offset=offset),
            )
        )
        return ZipRecord(name, size, crc, offset, None, None, method != 0)
    raw = ByteRange(source, data_at, packed)
    if entry.flags & 1:
        findings.append(_finding("RK-FILE-06", "unreadable-member", f"{name} is encrypted", where=Where(member=name)))
        return ZipRecord(name, size, crc, offset, raw, None, method != 0)
    if method == 0:
        if size != packed:
            findings.append(
                _finding(
                    "RK-FILE-05",
                    "broken-directory",
                    f"{name}: stored without compression, yet {packed:,} bytes are said to hold {size:,}",
                    where=Where(member=name, offset=offset),
                )
            )
            return ZipRecord(name, size, crc, offset, raw, None, compressed=False)
        return ZipRecord(name, size, crc, offset, raw, raw, compressed=False)
    if method != 8 or size > max(_FREE_BYTES, packed * _MAX_RATIO):
        reason = f"compression method {method}" if method != 8 else f"{packed:,} bytes that inflate to {size:,}"
        findings.append(
            _finding(
                "RK-FILE-06",
                "unreadable-member",
                f"{name}: {reason}; not read",
                why="torch stores records without compression" if method != 8 else "a decompression bomb looks like it",
                where=Where(member=name, offset=offset),
            )
        )
        return ZipRecord(name, size, crc, offset, raw, None, compressed=True)
    return ZipRecord(name, size, crc, offset, raw, InflatedBytes(raw, size, name), compressed=True)


def _widen(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers with those that say "see extra field" filled in from the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind = int.from_bytes(extra[at : at + 2], "little")
        length = int.from_bytes(extra[at + 2 : at + 4], "little")
        body = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind != _EXTRA64:
            continue
        wide = [int.from_bytes(body[i : i + 8], "little") for i in range(0, len(body) - 7, 8)]
        if size == _FULL32 and wide:
            size = wide.pop(0)
        if packed == _FULL32 and wide:
            packed = wide.pop(0)
        if offset == _FULL32 and wide:
            offset = wide.pop(0)
    return size, packed, offset


def _decode_name(raw: bytes, flags: int, limits: Limits, findings: list[Finding]) -> str:
    name = raw.decode("utf-8" if raw.isascii() or flags & 0x800 else "cp437", "replace")
    if len(raw) > limits.name_bytes:
        raise LimitExceeded(
            f"a member's name has {len(raw):,} bytes",
            why=f"reading is bounded by Limits.name_bytes = {limits.name_bytes:,}",
            do="raise Limits.name_bytes if you trust this file",
        )
    if ".." in name or "\\" in name or "\0" in name or name.startswith("/") or name[1:2] == ":":
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or "\\" in name or "\0" in name or name.startswith("/") or name[1:2] == ":":
            findings.append(
                Finding(
                    "RK-FILE-12",
                    "odd-member-name",
                    Severity.WARNING,
                    f"the member name {name!r} points outside the archive",
                    why="unpacking such an archive can write anywhere; rekindle never unpacks",
                    where=Where(member=name),
                )
            )
    return name


def _without_overlaps(records: list[ZipRecord], limit: int, findings: list[Finding]) -> Iterator[ZipRecord]:
    """Yield the records in their order; of two that share bytes, the later one in the file loses its data."""
    overlapping: set[str] = set()
    reached = 0
    by = ""
    for record in sorted((r for r in records if r.raw is not None), key=lambda r: r.offset):
        if record.raw is None:
            continue
        if record.offset < reached:
            overlapping.add(record.name)
            findings.append(
                _finding(
                    "RK-FILE-13",
                    "overlapping-members",
                    f"{record.name} starts at {record.offset:,}, inside {by}, which ends at {reached:,}",
                    why="no program writes this; it is how decompression bombs and forged archives are built",
                    where=Where(member=record.name, offset=record.offset),
                )
            )
        end = min(record.raw.offset + record.raw.size, limit)
        if end > reached:
            reached, by = end, record.name
    for record in records:
        if record.name in overlapping:
            yield ZipRecord(record.name, record.size, record.crc32, record.offset, None, None, record.compressed)
        else:
            yield record


def _report_surroundings(prepended: int, trailing: int, findings: list[Finding]) -> None:
    if prepended:
        findings.append(
            Finding(
                "RK-FILE-14",
                "prepended-bytes",
                Severity.WARNING,
                f"{prepended:,} bytes stand in front of the archive",
                why="torch.load refuses such a file; something was put before it (a header, another file)",
                do="convert it: the copy will not have them",
                where=Where(offset=0),
            )
        )
    if trailing:
        findings.append(
            Finding(
                "RK-FILE-15",
                "trailing-bytes",
                Severity.WARNING,
                f"{trailing:,} bytes follow the end of the archive",
                why="another file was appended, or an older and longer file was overwritten in place",
            )
        )


def _does_not_inflate(data: InflatedBytes) -> UnreadableFile:
    return UnreadableFile(
        f"{data.raw.source.path}: {data.name} does not inflate to its {data.size:,} bytes",
        why="the compressed bytes are damaged, or the directory lies about their size",
        code="RK-FILE-06",
    )


def _finding(code: str, name: str, what: str, *, why: str = "", where: Where | None = None) -> Finding:
    return Finding(code, name, Severity.ERROR, what, why=why, where=where or Where())
