"""NumPy arrays and safetensors files: headers that are data, and what stands behind the arrays.

An array of objects is a pickle behind its header (`numpy.load(allow_pickle=True)` runs it). A safetensors file ends
where its last tensor does; bytes behind that are nobody's. Facts: NEP 1, safetensors 0.6 `tensor.rs`.
"""

from __future__ import annotations

import re

from rekindle.finding import Severity
from rekindle.scanning.report import Report, View

__all__ = ["scan_npy", "scan_safetensors"]

_DESCR = re.compile(rb"""['"]descr['"]\s*:\s*['"]([<>=|]?[a-zA-Z][0-9]*)['"]""")
_SHAPE = re.compile(rb"""['"]shape['"]\s*:\s*\(([0-9, ]*)\)""")


def scan_npy(view: View, head: bytes, report: Report) -> str:
    """Look at a NumPy array file; empty where it is none."""
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    if not head.startswith(b"\x93NUMPY") or view.size < 12:
        return ""
    width = 2 if head[6] == 1 else 4
    length = int.from_bytes(head[8 : 8 + width], "little")
    start = 8 + width + length
    if start > view.size or length > report.limits.header_bytes:
        report.unreadable("RK-SCAN-11", "unreadable-member", "a NumPy array whose header is cut", view.where())
        return "npy"
    header = view.data.read(8 + width, length)
    rest = view.part(start, view.size - start)
    descr, shape = _DESCR.search(header), _SHAPE.search(header)
    if descr is None or descr[1].lstrip(b"<>=|")[:1] == b"O":
        if b"O" in (descr[1] if descr else header):
            report.add(
                "RK-SCAN-02", "unknown-import", Severity.WARNING,
                "a NumPy array of Python objects, which is a pickle: numpy.load(allow_pickle=True) runs it",
                rest.where(), why="its program was looked at; numpy.load refuses it by default",
            )  # fmt: skip
            if rest.size:
                scan_content(View(rest.data, rest.member, rest.base, view.depth), report, Role.MEMBER)
        elif rest.size:
            scan_content(View(rest.data, rest.member, rest.base, view.depth + 1), report, Role.RAW)
        return "npy"
    size = _array_bytes(descr[1], shape[1] if shape else None)
    if size is None or size > rest.size:
        report.unreadable("RK-SCAN-11", "unreadable-member", "a NumPy array that is cut or odd", view.where())
    elif size < rest.size:
        tail = rest.part(size, rest.size - size)
        scan_content(View(tail.data, tail.member, tail.base, view.depth + 1), report, Role.REST)
    return "npy"


def _array_bytes(descr: bytes, shape: bytes | None) -> int | None:
    kind = descr.lstrip(b"<>=|")
    if shape is None or not kind[1:].isdigit() or len(kind) > 12:
        return None
    size = int(kind[1:]) * (4 if kind[:1] == b"U" else 1)
    for part in shape.split(b","):
        if part.strip():
            if not part.strip().isdigit() or len(part) > 18:
                return None
            size = min(size * int(part), 1 << 62)
    return size


def scan_safetensors(view: View, head: bytes, report: Report) -> str:
    """Look at a safetensors file: its header is JSON, its tensors are raw; empty where it is none."""
    from rekindle.scanning.content import Role, scan_content  # noqa: PLC0415 - they call each other

    if len(head) < 10 or head[8:9] != b"{":
        return ""
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= view.size - 8:
        return ""
    if length > report.limits.header_bytes:
        report.unreadable("RK-SCAN-10", "limit-reached", f"a header of {length:,} bytes", view.where())
        return "safetensors"
    end, problem = _end_of_tensors(view.data.read(8, length))
    if problem:
        report.unreadable("RK-SCAN-11", "unreadable-member", f"safetensors: {problem}", view.where(8))
        return "safetensors"
    end += 8 + length
    if end > view.size:
        report.unreadable(
            "RK-SCAN-11", "unreadable-member", f"safetensors: cut, {view.size:,} of {end:,} bytes", view.where()
        )
    elif end < view.size:
        rest = view.part(end, view.size - end)
        scan_content(View(rest.data, rest.member, rest.base, view.depth + 1), report, Role.REST)
    return "safetensors"


def _end_of_tensors(header: bytes) -> tuple[int, str]:
    """Return (the byte after the last tensor, counted behind the header; what is wrong)."""
    import json  # noqa: PLC0415 - only when met

    repeated: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs):
            repeated.append("a name is given twice")
        return made

    try:
        table = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return 0, "the header is no JSON"
    if repeated:
        return 0, repeated[0]
    if not isinstance(table, dict):
        return 0, "the header is no table"
    end = 0
    for name, row in table.items():
        if name == "__metadata__":
            continue
        places = row.get("data_offsets") if isinstance(row, dict) else None
        if not isinstance(places, list) or len(places) != 2 or not all(type(place) is int for place in places):
            return 0, f"{name[:80]!r} has no place"
        end = max(end, places[1])
    return end, ""
