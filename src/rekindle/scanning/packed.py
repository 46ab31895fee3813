"""Compressed files and tar archives, unpacked in memory within bounds and looked at by content.

What is unpacked is bounded in all (four times `Limits.pickle_bytes`), so that a bomb costs no more than a large file;
what lies behind the bound is said to be not analysed.
"""

from __future__ import annotations

from rekindle.errors import UnreadableFile
from rekindle.scanning.report import Report, View

__all__ = ["inflate_raw", "is_compressed", "is_tar", "scan_compressed", "scan_tar", "unpack_bzip2"]

_BLOCK = 512
_PIECE = 1024 * 1024
_UNKNOWN = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07", "RAR"),
)


def is_compressed(head: bytes) -> str:
    """Return how bytes are compressed; empty where they are not."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh") and head[4:10] in {b"1AY&SY", b"\x17rE8P\x90"}:
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if len(head) > 1 and head[0] == 0x78 and head[1] in {0x01, 0x5E, 0x9C, 0xDA} and not int.from_bytes(head[:2]) % 31:
        return "zlib"
    for magic, kind in _UNKNOWN:
        if head.startswith(magic):
            return kind
    return "lzma" if head.startswith(b"]\x00\x00") and head[5:13] == b"\xff" * 8 else ""


def scan_compressed(view: View, head: bytes, report: Report) -> str:
    """Look at what a compressed file holds; returns how it is compressed, empty where it is not."""
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    kind = is_compressed(head)
    at = 0
    # Several streams one after another are one content to some readers.
    while kind and at < view.size:
        part = view.part(at, view.size - at)
        content, used, problem = _unpacked(part, kind, report)
        if kind == "zlib" and problem and not content:
            return ""  # two bytes are no proof
        if problem:
            report.unreadable("RK-SCAN-11", "unreadable-member", f"compressed with {kind}: {problem}", part.where())
        if content:
            scan_content(view.unpacked(kind, content), report, Role.FILE if view.depth == 0 else Role.MEMBER)
        if problem or not used:
            break
        at += used
        rest = view.data.read(at, min(16, view.size - at))
        if is_compressed(rest) != kind:
            if rest:
                tail = view.part(at, view.size - at)
                scan_content(View(tail.data, tail.member, tail.base, view.depth + 1), report, Role.REST)
            break
    return kind


def inflate_raw(view: View, report: Report) -> tuple[bytes, str]:
    """Return (content, problem) of a deflated member."""
    import zlib  # noqa: PLC0415 - few archives are compressed

    content, _, problem = _run(zlib.decompressobj(-15), view, report)
    return content, problem


def unpack_bzip2(view: View, report: Report) -> tuple[bytes, str]:
    """Return (content, problem) of a member that is compressed with bzip2."""
    content, _, problem = _unpacked(view, "bzip2", report)
    return content, problem


def _unpacked(view: View, kind: str, report: Report) -> tuple[bytes, int, str]:
    try:
        if kind in {"gzip", "zlib"}:
            import zlib  # noqa: PLC0415 - only when met

            return _run(zlib.decompressobj(31 if kind == "gzip" else 15), view, report)
        if kind == "bzip2":
            import bz2  # noqa: PLC0415

            return _run(bz2.BZ2Decompressor(), view, report)
        if kind in {"xz", "lzma"}:
            import lzma  # noqa: PLC0415

            return _run(lzma.LZMADecompressor(memlimit=256 * 1024**2), view, report)
    except ImportError:
        return b"", 0, f"this Python was built without {kind}"
    return b"", 0, f"{kind} is not unpacked here; unpack it and scan the result"


def _run(machine: object, view: View, report: Report) -> tuple[bytes, int, str]:
    """Return (content, bytes used, problem)."""
    decompress = machine.decompress  # type: ignore[attr-defined]  # zlib, bz2 and lzma have it, without a common type
    pieces: list[bytes] = []
    at = size = 0
    room = min(report.limits.pickle_bytes, report.inflate_left)
    pending = b""
    problem = ""
    try:
        while not machine.eof:  # type: ignore[attr-defined]  # see above
            if size >= room:
                problem = f"more than {room:,} bytes unpacked; the rest was not looked at"
                break
            needs_input = getattr(machine, "needs_input", not pending)
            if needs_input and not pending:
                if at >= view.size:
                    problem = "it ends early"
                    break
                pending = view.data.read(at, min(_PIECE, view.size - at))
                at += len(pending)
            out = decompress(pending, min(_PIECE, room - size))
            pending = getattr(machine, "unconsumed_tail", b"")
            pieces.append(out)
            size += len(out)
    except UnreadableFile:
        raise
    except Exception as error:  # noqa: BLE001 - zlib, bz2 and lzma each have an error of their own
        problem = f"it does not unpack ({type(error).__name__})"
    report.inflate_left -= size
    return b"".join(pieces), at - len(getattr(machine, "unused_data", b"")), problem


# ---- tar


def is_tar(head: bytes, size: int) -> bool:
    """Tell whether so many bytes begin with the header of a tar archive's member."""
    return size >= _BLOCK and _is_header(head[:_BLOCK])


def scan_tar(view: View, head: bytes, report: Report) -> str:
    """Look at the members of a tar archive and at what follows them; returns its kind, empty where it is none."""
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    if not is_tar(head, view.size):
        return ""
    at = 0
    names: list[str] = []
    starts: set[int] = set()
    while at + _BLOCK <= view.size:
        header = view.data.read(at, _BLOCK)
        if not any(header):
            break
        size = _number(header[124:136])
        name = header[:100].split(b"\0", 1)[0].decode("utf-8", "replace").removeprefix("./")
        if not _is_header(header) or size is None or at + _BLOCK + size > view.size:
            report.unreadable(
                "RK-SCAN-11", "unreadable-member", f"the tar archive is damaged or cut at member {name!r}",
                view.where(at),
            )  # fmt: skip
            break
        if len(names) >= report.limits.members:
            report.unreadable("RK-SCAN-10", "limit-reached", "too many members", view.where(at))
            break
        if header[156:157] in {b"1", b"2"}:
            target = header[157:257].split(b"\0", 1)[0].decode("utf-8", "replace")
            report.unreadable(
                "RK-SCAN-11", "unreadable-member", f"{name} is a link to {target}", view.where(at),
                "links are not followed; unpacking one can lead out of the folder",
            )  # fmt: skip
        elif size:
            content = view.part(at + _BLOCK, size)
            if name in {"storages", "tensors"} and "sys_info" in names:
                from rekindle.scanning.torch_tars import scan_rows  # noqa: PLC0415 - rare

                scan_rows(view.inside(name, content.data), report, name)
            else:
                scan_content(view.inside(name, content.data), report, Role.MEMBER)
        names.append(name)
        starts.add(at + _BLOCK)
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    _scan_behind(view, at, report)
    _scan_zip_reading(view, starts, head, report)
    return "torch-tar" if {"sys_info", "storages"} <= set(names) else "tar"


def _scan_zip_reading(view: View, starts: set[int], head: bytes, report: Report) -> None:
    """Look at the zip that a reader finds from the end of a tar, unless it is one of its members."""
    from rekindle.scanning.archives import find_archive, scan_archive  # noqa: PLC0415 - they call each other

    end = find_archive(view, head, thorough=True)
    if end is None or end.shift in starts:
        return
    report.unreadable(
        "RK-SCAN-08",
        "two-readings",
        "the bytes are a tar archive and, read from their end, a zip archive that is none of its members",
        view.where(end.shift),
        "files with two readings are made to show one thing to a scanner and another to a loader",
    )
    scan_archive(view, end, report)


def _scan_behind(view: View, at: int, report: Report) -> None:
    """Look at what follows the last block, unless it is the zeros that fill up a tape."""
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    while at < view.size:
        piece = view.data.read(at, min(_PIECE, view.size - at))
        if any(piece):
            at += len(piece) - len(piece.lstrip(b"\0"))
            rest = view.part(at, view.size - at)
            scan_content(View(rest.data, rest.member, rest.base, view.depth + 1), report, Role.REST)
            return
        at += len(piece)


def _is_header(header: bytes) -> bool:
    """Tell whether 512 bytes are the header of a member: by the checksum, which counts its own bytes as spaces."""
    stated = _number(header[148:156])
    return len(header) == _BLOCK and stated == sum(header[:148]) + 8 * 32 + sum(header[156:]) and header[0] != 0


def _number(field: bytes) -> int | None:
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None
