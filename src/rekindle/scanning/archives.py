"""Zip archives, read the way somebody reads one who expects a trick: both headers of every entry, and all between them.

Loaders differ in what they believe (torch's miniz ignores flags and checksums and takes sizes from the directory;
Python's zipfile checks names, checksums and the encryption flag; streaming readers see local headers only). Here the
content of every entry is looked at in each reading, by content and not by name; where the readings differ the archive
is *not analysed*, whatever its content. Bytes that belong to no entry are looked at as well.

Facts: PKWARE APPNOTE 6.3.9 (4.3, 4.5.3), PyTorch 2.13 `third_party/miniz-3.0.2`, CPython 3.13 `Lib/zipfile`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from rekindle.errors import UnreadableFile
from rekindle.finding import Severity, Where
from rekindle.scanning.packed import inflate_raw, unpack_bzip2
from rekindle.scanning.report import Report, View
from rekindle.source import MemorySource, Readable

__all__ = ["End", "find_archive", "scan_archive"]

_LOCAL = b"PK\x03\x04"
_CENTRAL = b"PK\x01\x02"
_END = b"PK\x05\x06"
_DESCRIPTOR = b"PK\x07\x08"
_END_LAYOUT = Struct("<4s4H2LH")
_END64_LAYOUT = Struct("<4sQ2H2L4Q")
_LOCATOR_LAYOUT = Struct("<4sLQL")
_CENTRAL_LAYOUT = Struct("<4s6H3L5H2L")
_LOCAL_LAYOUT = Struct("<4s5H3L2H")
_FULL32 = 0xFFFFFFFF
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_TAIL_BYTES = 22 + 0xFFFF

# Where torch's archives keep raw bytes; any other member must be something that is known.
_RAW_NAME = re.compile(
    r"(?:^|/)(?:(?:data|constants|tensors)/[0-9]+|\.data/[0-9]+\.storage|data/(?:weights/weight|constants/tensor)_[0-9]+)$"
)


class End(NamedTuple):
    """The record that closes an archive.

    Attributes:
        at: its offset.
        stop: the byte after its comment.
        start: offset of the directory.
        entries: how many it announces.
        shift: bytes in front of the archive, by which all its offsets are short.
    """

    at: int
    stop: int
    start: int
    entries: int
    shift: int


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int  # of the local header
    data_at: int  # of the content; -1 where there is no local header
    local_method: int
    trouble: tuple[str, ...]  # in what directory and local header differ


def find_archive(view: View, head: bytes, *, thorough: bool) -> End | None:
    """Return the end record that readers go by: the last one; None where there is no archive.

    Args:
        view: the bytes.
        head: the first of them.
        thorough: look for a record with a comment behind it, too.
    """
    is_first = head.startswith((_LOCAL, _END))
    length = min(view.size, _TAIL_BYTES if thorough or is_first else _END_LAYOUT.size)
    tail = view.data.read(view.size - length, length)
    found = tail.rfind(_END)
    while found >= 0:
        end = _read_end(view.data, view.size - length + found)
        if end is not None:
            return end
        found = tail.rfind(_END, 0, found)
    if is_first:
        return End(view.size, view.size, view.size, -1, 0)  # cut: local headers only
    return None


def _read_end(data: Readable, at: int) -> End | None:
    """Read an end record; None where what it says cannot be."""
    if at + _END_LAYOUT.size > data.size:
        return None
    _, _, _, _, count, size, offset, comment = _END_LAYOUT.unpack(data.read(at, _END_LAYOUT.size))
    stop = min(at + _END_LAYOUT.size + comment, data.size)
    directory_end = at
    locator_at = at - _LOCATOR_LAYOUT.size
    if locator_at >= _END64_LAYOUT.size:
        signature, _, stated, _ = _LOCATOR_LAYOUT.unpack(data.read(locator_at, _LOCATOR_LAYOUT.size))
        if signature == b"PK\x06\x07":
            for place in (locator_at - _END64_LAYOUT.size, stated):
                if 0 <= place <= locator_at - _END64_LAYOUT.size:
                    fields = _END64_LAYOUT.unpack(data.read(place, _END64_LAYOUT.size))
                    if fields[0] == b"PK\x06\x06":
                        directory_end, count, size, offset = place, fields[7], fields[8], fields[9]
                        break
    start = directory_end - size
    if start < 0 or start < offset:
        return None
    if size and data.read(start, min(4, size)) != _CENTRAL:
        return None
    if not size and count:
        return None
    return End(at, stop, start, count, start - offset)


def scan_archive(view: View, end: End, report: Report) -> str:
    """Look at every archive of a file, the last one first: some formats are a row of them, with nothing in between."""
    whole = view
    while True:
        before = _archive_before(whole, end)
        kind = _scan_one(view, end, report, start=0 if before is None else end.shift)
        if before is None:
            return kind
        view, end = whole.part(0, end.shift), before


def _archive_before(view: View, end: End) -> End | None:
    """Return the end of the archive that stands in front of one, None where something else does."""
    if not end.shift or view.data.head(4) != _LOCAL:
        return None
    before = find_archive(view.part(0, end.shift), _LOCAL, thorough=True)
    return before if before is not None and before.entries >= 0 else None


def _scan_one(view: View, end: End, report: Report, start: int) -> str:
    """Look at every entry of an archive, at what is hidden from its directory, and at what stands around it."""
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    entries = list(_read_entries(view, end, report))
    _report_duplicates(entries, view, report)
    covered = [(0, start), (end.start, end.stop)]
    for entry in entries:
        if entry.data_at >= 0:
            covered.append((entry.offset, _end_of(entry, view, end)))
        if entry.trouble:
            report.unreadable(
                "RK-SCAN-08",
                "two-readings",
                f"{entry.name}: {'; '.join(entry.trouble)}",
                Where(member=_way(view, entry.name), offset=entry.offset),
                "loaders differ in which of the two they believe",
            )
    seen: set[tuple[int, int, int, int, bool]] = set()
    kind = _kind({entry.name for entry in entries})
    called: dict[str, None] = {}
    for entry in entries:
        raw = kind != "zip" and _RAW_NAME.search(entry.name) is not None
        script = kind == "torchscript" and _is_script(entry.name)
        region = (entry.data_at, entry.packed, entry.method, entry.local_method, raw)
        if entry.data_at < 0 or not entry.packed or region in seen or (raw and not report.storages):
            continue
        seen.add(region)
        try:
            for reading in _readings(entry, view, report):
                scan_content(reading, report, Role.RAW if raw else Role.CODE if script else Role.MEMBER)
                if entry.name.endswith(".json"):
                    _look_at_graph(reading, report)
                elif script or (kind == "torchscript" and entry.name.endswith("bytecode.pkl")):
                    _look_at_script(reading, report, called, is_code=script)
        except UnreadableFile as error:  # what is wrong with one member hides no other
            place = Where(member=_way(view, entry.name), offset=0)
            report.unreadable("RK-SCAN-11", "unreadable-member", f"{entry.name}: {error.what}", place, error.why)
    _scan_gaps(view, covered, end, report)
    if kind == "torchscript":
        _report_script(sum(_is_script(entry.name) for entry in entries), list(called), view, report)
    return kind


def _way(view: View, name: str) -> str:
    return name if view.member is None else f"{view.member} > {name}"


def _kind(names: set[str]) -> str:
    last = {name.partition("/")[2] for name in names} | names
    if "constants.pkl" in last or "model.json" in last:
        return "torchscript"
    if "archive_format" in last or "serialized_exported_program.json" in last:
        return "torch-export"
    if any(name.endswith("data.pkl") for name in names):
        return "torch-zip"
    return "torch-package" if any(name.endswith(".data/extern_modules") for name in names) else "zip"


# ---- the directory


def _read_entries(view: View, end: End, report: Report) -> Iterator[_Entry]:
    """Yield the entries of the directory as far as it goes."""
    data = view.data
    at = end.start
    count = 0
    while at + _CENTRAL_LAYOUT.size <= end.at:
        fields = _CENTRAL_LAYOUT.unpack(data.read(at, _CENTRAL_LAYOUT.size))
        if fields[0] != _CENTRAL:
            break
        if count >= report.limits.members:
            report.unreadable(
                "RK-SCAN-10", "limit-reached", f"more than {count:,} members; the others were not looked at",
                view.where(at), "looking is bounded by Limits.members",
            )  # fmt: skip
            return
        count += 1
        _, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = fields[:13]
        offset = fields[16]
        name_at = at + _CENTRAL_LAYOUT.size
        following = name_at + name_length + extra_length + comment_length
        if following > end.at:
            break
        at = following
        raw_name = data.read(name_at, name_length)
        extra = data.read(name_at + name_length, extra_length)
        size, packed, offset = _widened(extra, size, packed, offset)
        yield _compared(data, raw_name, flags, method, crc, packed, size, offset + end.shift, end.start)
    _check_behind_directory(view, at, end, report)
    if end.entries >= 0 and count != end.entries:
        report.unreadable(
            "RK-SCAN-08",
            "two-readings",
            f"the directory announces {end.entries:,} members and lists {count:,}",
            view.where(end.start),
            "the end of the file was overwritten or made up; loaders differ in what they read",
        )


def _check_behind_directory(view: View, at: int, end: End, report: Report) -> None:
    """Look at what stands between the last entry of the directory and the end record: the records of zip64, if any."""
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    size = end.at - at
    if not size or end.at >= view.size:
        return
    head = view.data.read(at, min(12, size))
    if head[:4] == b"PK\x06\x06" and int.from_bytes(head[4:], "little") + 12 + _LOCATOR_LAYOUT.size == size:
        return
    report.unreadable(
        "RK-SCAN-08",
        "two-readings",
        f"{size:,} bytes that are no entries stand between the directory and its end",
        view.where(at),
        "loaders that look for the directory from its end differ in where they find it",
    )
    rest = view.part(at, size)
    scan_content(View(rest.data, rest.member, rest.base, view.depth + 1), report, Role.REST)


def _widened(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers with those that are too large for 32 bits taken from the zip64 field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        if kind == 1:
            wide = [int.from_bytes(extra[i : i + 8], "little") for i in range(at + 4, at + 4 + length - 7, 8)]
            values = [wide.pop(0) if value == _FULL32 and wide else value for value in (size, packed, offset)]
            return values[0], values[1], values[2]
        at += 4 + length
    return size, packed, offset


def _compared(
    data: Readable,
    raw_name: bytes,
    flags: int,
    method: int,
    crc: int,
    packed: int,
    size: int,
    offset: int,
    limit: int,
) -> _Entry:
    """Return an entry with what its local header says otherwise."""
    name = raw_name.decode("utf-8" if raw_name.isascii() or flags & 0x800 else "cp437", "replace")
    trouble: list[str] = []
    data_at, local_method = -1, method
    if offset + _LOCAL_LAYOUT.size > limit:
        trouble.append("its local header is not in the archive")
    else:
        local = _LOCAL_LAYOUT.unpack(data.read(offset, _LOCAL_LAYOUT.size))
        signature, _, local_flags, local_method, _, _, local_crc, local_packed, local_size, length, extra = local
        if signature != _LOCAL:
            trouble.append(f"there is no local header at {offset:,}")
            local_method = method
        elif offset + _LOCAL_LAYOUT.size + length + extra > limit:
            trouble.append("its local header reaches into the directory")
        else:
            data_at = offset + _LOCAL_LAYOUT.size + length + extra
            local_name = data.read(offset + _LOCAL_LAYOUT.size, length)
            if local_name != raw_name:
                trouble.append(f"its local header calls it {local_name[:200].decode('utf-8', 'replace')}")
            if local_method != method:
                trouble.append(f"compression {method} in the directory and {local_method} in the local header")
            if (local_flags ^ flags) & 1:
                trouble.append("encrypted in one header and not in the other")
            # torch leaves zeros and writes the truth behind the data; so do all who set flag 8.
            if not local_flags & 8:
                pairs = ((local_crc, crc, "checksum"), (local_packed, packed, "size"), (local_size, size, "size"))
                for here, there, what in pairs:
                    if here not in {0, _FULL32, there}:
                        trouble.append(f"{what} {here:,} in the local header and {there:,} in the directory")
    if flags & 1:
        trouble.append("it is marked as encrypted, which torch ignores")
    if data_at >= 0 and data_at + packed > limit:
        trouble.append(f"its {packed:,} bytes reach into the directory")
        packed = limit - data_at
    if method == _STORED and size != packed:
        trouble.append(f"stored without compression, yet {packed:,} bytes are said to hold {size:,}")
    if "\0" in name:
        trouble.append("its name has a NUL, where some readers end it")
    return _Entry(
        name, raw_name, flags, method, crc, packed, size, offset, data_at, local_method, tuple(dict.fromkeys(trouble))
    )


def _report_duplicates(entries: list[_Entry], view: View, report: Report) -> None:
    seen: set[str] = set()
    for entry in entries:
        # Readers compare names with and without case, and with either slash.
        name = entry.name.replace("\\", "/").lower()
        if name in seen:
            report.unreadable(
                "RK-SCAN-08",
                "two-readings",
                f"the archive has {entry.name} twice",
                Where(member=_way(view, entry.name), offset=entry.offset),
                "loaders differ in which one they take",
            )
        seen.add(name)
    spans = sorted((entry.data_at, entry.data_at + entry.packed, entry.name) for entry in entries if entry.data_at >= 0)
    for (_, stop, first), (start, _, second) in pairwise(spans):
        if start < stop:
            report.unreadable(
                "RK-SCAN-08",
                "two-readings",
                f"{first} and {second} share bytes",
                view.where(start),
                "no program writes this; it is how forged archives and decompression bombs are built",
            )


def _end_of(entry: _Entry, view: View, end: End) -> int:
    """Return where an entry ends, with the descriptor that may follow its data."""
    stop = entry.data_at + entry.packed
    tail = view.data.read(stop, min(24, max(end.start - stop, 0)))
    if not tail.startswith(_DESCRIPTOR):
        return stop
    for length in (16, 24):  # the longer one where sizes have 64 bits
        if tail[length : length + 2] == b"PK" or stop + length == end.start:
            return stop + length
    sizes = Struct("<QQ").unpack_from(tail, 8) if len(tail) == 24 else (0, 0)
    return stop + (24 if sizes == (entry.packed, entry.size) else 16)


# ---- contents


def _readings(entry: _Entry, view: View, report: Report) -> Iterator[View]:
    """Yield what an entry holds by each of the compressions that its headers name."""
    place = Where(member=_way(view, entry.name), offset=0)
    raw = view.part(entry.data_at, entry.packed)
    for method in dict.fromkeys((entry.method, entry.local_method)):
        if method == _STORED:
            yield view.inside(entry.name, raw.data)
            continue
        if method not in {_DEFLATED, _BZIP2}:
            report.unreadable(
                "RK-SCAN-11", "unreadable-member", f"{entry.name}: compression method {method}", place,
                "torch stores members as they are; this method is not known here",
            )  # fmt: skip
            continue
        content, problem = (inflate_raw if method == _DEFLATED else unpack_bzip2)(raw, report)
        if problem:
            report.unreadable("RK-SCAN-11", "unreadable-member", f"{entry.name}: {problem}", place)
        elif len(content) != entry.size and not entry.trouble:
            report.unreadable(
                "RK-SCAN-08", "two-readings", f"{entry.name}: {entry.size:,} bytes announced, {len(content):,} there",
                place, "loaders differ in how much of it they read",
            )  # fmt: skip
        yield view.inside(entry.name, MemorySource(content, view.data.path))


# ---- what belongs to no entry


def _scan_gaps(view: View, covered: list[tuple[int, int]], end: End, report: Report) -> None:
    """Look at the bytes between, before and after what the directory lists."""
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    at = 0
    for start, stop in [*sorted(covered), (view.size, view.size)]:
        if start > at:
            _scan_gap(view, at, start, end, report)
        at = max(at, stop)
    comment = end.stop - end.at - _END_LAYOUT.size
    if comment > 0 and end.at < view.size:
        text = view.part(end.at + _END_LAYOUT.size, comment)
        if _END in text.data.read(0, comment):
            report.unreadable(
                "RK-SCAN-08", "two-readings", "the comment of the archive holds the end of another one",
                text.where(), "loaders differ in which end they go by",
            )  # fmt: skip
        scan_content(View(text.data, text.member, text.base, view.depth + 1), report, Role.REST)


def _scan_gap(view: View, start: int, stop: int, end: End, report: Report) -> None:
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    while start < stop:
        part = view.part(start, stop - start)
        if part.data.head(4) != _LOCAL:
            rest = View(part.data, part.member, part.base, view.depth + 1)
            scan_content(rest, report, Role.REST)
            return
        hidden = _hidden_entry(part)
        if hidden is None:
            report.unreadable("RK-SCAN-12", "hidden-member", "a local header that is cut", part.where())
            return
        entry, length = hidden
        if end.entries >= 0:
            why = "readers that go from one local header to the next see it, others do not"
        else:
            why = "the archive has no directory: it was cut short; what can be found of it was looked at"
        report.unreadable(
            "RK-SCAN-12", "hidden-member", f"{entry.name} has a local header and is in no directory", part.where(), why
        )
        for reading in _readings(entry, part, report):
            scan_content(reading, report, Role.RAW if _RAW_NAME.search(entry.name) else Role.MEMBER)
        start += length


def _hidden_entry(part: View) -> tuple[_Entry, int] | None:
    """Return the entry whose local header starts a run of bytes, and how many bytes it takes."""
    if part.size < _LOCAL_LAYOUT.size:
        return None
    fields = _LOCAL_LAYOUT.unpack(part.data.read(0, _LOCAL_LAYOUT.size))
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    data_at = _LOCAL_LAYOUT.size + name_length + extra_length
    if data_at > part.size:
        return None
    raw_name = part.data.read(_LOCAL_LAYOUT.size, name_length)
    size, packed, _ = _widened(part.data.read(_LOCAL_LAYOUT.size + name_length, extra_length), size, packed, 0)
    length = 0
    if not packed:
        packed, length = _up_to_next(part, data_at)
        size = packed if method == _STORED else size
    packed = min(packed, part.size - data_at)
    name = raw_name.decode("utf-8", "replace")
    entry = _Entry(name, raw_name, flags, method, crc, packed, size, 0, data_at, method, ("only in its local header",))
    return entry, data_at + packed + length


def _up_to_next(part: View, data_at: int) -> tuple[int, int]:
    """Return (bytes up to the next header, bytes of a descriptor in front of it) where no length is stated."""
    at = data_at
    while at < part.size:
        piece = part.data.read(at, min(1 << 20, part.size - at))
        places = [found for mark in (_DESCRIPTOR, _LOCAL, _CENTRAL) if (found := piece.find(mark)) >= 0]
        if places:
            found = at + min(places)
            if part.data.read(found, 4) != _DESCRIPTOR:
                return found - data_at, 0
            tail = part.data.read(found, min(24, part.size - found))
            return found - data_at, min(24 if tail[16:18] != b"PK" and tail[24:26] != b"PK" else 16, len(tail))
        at += max(len(piece) - 3, 1)
        if len(piece) < 4:
            break
    return part.size - data_at, 0


# ---- what a kind of archive means


_EXPRESSION = re.compile(rb'"expr_str"\s*:\s*"((?:[^"\\]|\\.)*)"')
_PLAIN_EXPRESSION = re.compile(rb"[A-Za-z0-9_+\-*/(), <>=!~&|^%]*")
_USE_PICKLE = re.compile(rb'"use_pickle"\s*:\s*true')
_JSON_BYTES = 64 * 1024**2


def _look_at_graph(view: View, report: Report) -> None:
    """Look for what torch.export evaluates: expressions of shapes, and weights that are pickles."""
    if view.size > _JSON_BYTES:
        report.unreadable(
            "RK-SCAN-10", "limit-reached", f"{view.size:,} bytes of JSON; not looked at", view.where(),
            "looking is bounded",
        )  # fmt: skip
        return
    text = view.data.read(0, view.size)
    for found in _EXPRESSION.finditer(text):
        if b"__" in found[1] or not _PLAIN_EXPRESSION.fullmatch(found[1]):
            report.add(
                "RK-SCAN-16", "evaluated-expression", Severity.DANGER,
                f"the size {found[1][:160].decode('utf-8', 'replace')!r} is evaluated as Python by torch.export.load",
                view.where(found.start()), why="sympify, which reads it, is an eval", do="do not load this file",
            )  # fmt: skip
    if _USE_PICKLE.search(text):
        report.add(
            "RK-SCAN-02", "unknown-import", Severity.WARNING,
            "a weight is marked use_pickle: torch unpickles it without any check", view.where(),
            why="its own program was looked at like every other member",
        )  # fmt: skip


# ---- TorchScript


def _is_script(name: str) -> bool:
    return "/code/" in f"/{name}" and name.endswith(".py")


def _look_at_script(view: View, report: Report, called: dict[str, None], *, is_code: bool) -> None:
    """Look for operators that reach beyond tensors, in code or in the bytecode of a mobile archive."""
    from rekindle.scanning.torchscript import mobile_operators, read_code  # noqa: PLC0415 - one kind of archive only

    if view.size > _JSON_BYTES:
        report.unreadable(
            "RK-SCAN-10", "limit-reached", f"{view.size:,} bytes of code; not looked at", view.where(),
            "looking is bounded",
        )  # fmt: skip
        return
    source = view.data.read(0, view.size)
    if is_code:
        code = read_code(source)
        reaches = code.reaches
        called.update(dict.fromkeys((*code.custom, *code.operators)))
        if code.hidden is not None:
            report.add(
                "RK-SCAN-06", "odd-call", Severity.WARNING, "code that hides which operator it calls",
                view.where(code.hidden),
                why="`torch` and `ops` stand there without the name of an operator, or are the name of something else",
            )  # fmt: skip
    else:
        reaches = tuple(mobile_operators(source))
    for reach in reaches:
        report.add(
            "RK-SCAN-21", "script-reaches-out", Severity.DANGER, f"the model calls {reach.name}: {reach.text}",
            view.where(reach.offset), why=reach.reason, do="do not call this model",
        )  # fmt: skip


_SHOWN_OPERATORS = 8


def _report_script(files: int, called: list[str], view: View, report: Report) -> None:
    """Say that there is code, and what it calls, operators of other libraries first."""
    shown = ", ".join(name[:100] for name in called[:_SHOWN_OPERATORS])
    more = len(called) - _SHOWN_OPERATORS
    calls = f"; it calls {shown}" + (f" and {more:,} more operators" if more > 0 else "") if called else ""
    report.add(
        "RK-SCAN-14",
        "torchscript-code",
        Severity.WARNING,
        f"TorchScript: {files:,} file{'' if files == 1 else 's'} of code that runs when the model is called{calls}",
        view.where(),
        why="the language has no imports; those of its operators that are known to use files or the network were "
        "looked for",
    )
