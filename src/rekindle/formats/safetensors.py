"""safetensors: eight bytes of header length, a JSON header, and the tensors' bytes without a hole.

Validated as strictly as the reference does: the header ends inside the file, its JSON names no key twice, every dtype
is known, every range has exactly the bytes of its shape, and the ranges tile the rest of the file: no hole, no overlap,
ending at its last byte. Each violation is a finding with its numbers; a tensor whose range cannot be trusted is listed
without bytes.

Facts: safetensors 0.8 (`tensor.rs`: `SafeTensors::read_metadata`, `Metadata::validate`) and its format page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from rekindle.errors import LimitExceeded
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._sources import rescue_words
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Member, Opened
from rekindle.source import Source
from rekindle.tensors import (
    DTYPE_OF_SAFETENSORS,
    Storage,
    TensorEntry,
    TensorTable,
    contiguous_stride,
    element_count,
)
from rekindle.tree import Map, Tensor, Value

__all__ = ["NAME", "read", "sniff"]

NAME = "safetensors"

# Bits of one element of the types that have no byte of their own. torch has one of them, two elements to a byte.
_SUB_BYTE_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_MAX_BYTES = 2**63 - 1


def sniff(head: bytes, source: Source) -> bool:
    """Tell whether a JSON object stands at byte 8 behind a plausible length (or one cut short)."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    length = int.from_bytes(head[:8], "little")
    return 2 <= length < 2**40 and source.size >= 9


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read and check the header; the tensors stay where they are.

    Raises:
        LimitExceeded: the header is longer than `limits.header_bytes`, or names more tensors than `limits.members`.
    """
    findings: list[Finding] = []
    length = int.from_bytes(source.read(0, 8), "little")
    if 8 + length > source.size:
        findings.append(
            Finding(
                "RK-FILE-17",
                "broken-header",
                Severity.ERROR,
                f"{source.path}: the header should have {length:,} bytes, the file has {source.size:,}",
                why="the copy or the download stopped early",
                do="copy or download it again and compare the sizes",
                where=Where(offset=0),
            )
        )
        return _unlisted(source, findings)
    if length > limits.header_bytes:
        raise LimitExceeded(
            f"{source.path}: a header of {length:,} bytes",
            why=f"reading is bounded by Limits.header_bytes = {limits.header_bytes:,}, as the format's own library is",
            do="raise Limits.header_bytes if you trust this file",
        )
    header = _read_header(source, length, findings)
    if header is None:
        return _unlisted(source, findings)
    if len(header) > limits.members:
        raise LimitExceeded(
            f"{source.path}: {len(header):,} tensors in one header",
            why=f"reading is bounded by Limits.members = {limits.members:,}",
            do="raise Limits.members if you trust this file",
        )
    metadata = _read_metadata(header, findings)
    base = 8 + length
    rows = [row for row in (_read_row(key, value, limits, findings) for key, value in header.items()) if row]
    _check_tiling(source, rows, source.size - base, base, findings)
    entries, pairs = _place(source, base, rows, findings)
    members = tuple(Member(row.key, source.range(base + row.start, row.stop - row.start)) for row in rows if row.inside)
    facts: dict[str, object] = {"byteorder": "little", "header_bytes": length}
    if metadata:
        facts["metadata"] = metadata
    return Opened(
        source.path,
        NAME,
        source.size,
        Map(pairs),
        TensorTable(entries),
        tuple(findings),
        members,
        facts,
        source.close,
    )


def _unlisted(source: Source, findings: list[Finding]) -> Opened:
    return Opened(
        source.path,
        NAME,
        source.size,
        None,
        TensorTable(()),
        tuple(findings),
        close_files=source.close,
        listed=False,
    )


def _read_header(source: Source, length: int, findings: list[Finding]) -> dict[str, object] | None:
    """Return the header's JSON object, None where it is none."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            repeated.extend(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add returns None, on purpose
        return found

    def refuse(text: str) -> object:
        raise ValueError(f"{text} is no JSON number")

    try:
        header = json.loads(
            source.read(8, length).decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse, parse_float=refuse
        )
        if not isinstance(header, dict):
            raise TypeError("it is no object")  # noqa: TRY301 - one place says what is wrong
    except (ValueError, TypeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        findings.append(
            Finding(
                "RK-FILE-17",
                "broken-header",
                Severity.ERROR,
                f"{source.path}: the {length:,} bytes of its header are not the JSON that the format wants: {reason}",
                why="the file was overwritten, or another program wrote it wrongly",
                do="get the file again from its source",
                where=Where(offset=8),
            )
        )
        return None
    findings.extend(
        Finding(
            "RK-FILE-26",
            "duplicate-key",
            Severity.ERROR,
            f"the header names {key!r} twice; readers differ in which one they take, this listing has the last",
            why="the program that wrote it did not check its names",
            where=Where(key=key),
        )
        for key in repeated[:16]
    )
    return header


def _read_metadata(header: dict[str, object], findings: list[Finding]) -> Mapping[str, str]:
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        return {}
    if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
        return metadata
    findings.append(
        Finding(
            "RK-FILE-17",
            "broken-header",
            Severity.ERROR,
            "__metadata__ in the header is not a table of texts",
            why="the format allows only text; other readers refuse the file",
            where=Where(key="__metadata__"),
        )
    )
    return {}


class _Row:
    """One tensor of the header, in the header's own terms."""

    __slots__ = ("dtype", "inside", "key", "shape", "start", "stop")

    def __init__(self, key: str, dtype: str, shape: tuple[int, ...], start: int, stop: int) -> None:
        self.key = key
        self.dtype = dtype
        self.shape = shape
        self.start = start
        self.stop = stop
        self.inside = False


def _read_row(key: str, value: object, limits: Limits, findings: list[Finding]) -> _Row | None:
    """Return one tensor of the header, None (and a finding) where it is not described as the format wants."""
    row = _described(key, value, limits)
    if isinstance(row, _Row):
        return row
    findings.append(
        Finding(
            "RK-FILE-17",
            "broken-header",
            Severity.ERROR,
            f"{key}: {row}",
            why="the header was changed or written wrongly; other readers refuse the file",
            where=Where(key=key),
        )
    )
    return None


def _described(key: str, value: object, limits: Limits) -> _Row | str:
    """Return one tensor of the header, or what is wrong with its description."""
    if not isinstance(value, dict):
        return f"{type(value).__name__} where an object belongs"
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or (dtype not in DTYPE_OF_SAFETENSORS and dtype not in _SUB_BYTE_BITS):
        return f"dtype {str(dtype)[:40]!r} is none that the format knows"
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= _MAX_BYTES for size in shape):
        return "its shape is no list of sizes"
    if len(shape) > limits.tensor_dims:
        return f"{len(shape):,} dimensions, more than Limits.tensor_dims"
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int and 0 <= offset <= _MAX_BYTES for offset in offsets)
        or offsets[1] < offsets[0]
    ):
        return "its data_offsets are no range"
    bits = _SUB_BYTE_BITS.get(dtype) or DTYPE_OF_SAFETENSORS[dtype].itemsize * 8
    wanted = element_count(shape) * bits
    if wanted % 8 or wanted // 8 != offsets[1] - offsets[0]:
        needed = f"{wanted // 8:,} bytes" if wanted < 2**64 else "more bytes than any disk has"
        return f"{dtype} {shape} needs {needed}, its range has {offsets[1] - offsets[0]:,}"
    return _Row(key, dtype, tuple(shape), offsets[0], offsets[1])


def _check_tiling(source: Source, rows: list[_Row], size: int, base: int, findings: list[Finding]) -> None:
    """Check that the ranges cover the data without hole or overlap, and mark those that lie in the file."""
    reached = 0
    before = "the header"
    for row in sorted(rows, key=lambda row: (row.start, row.stop)):
        row.inside = row.stop <= size
        if row.start != reached and row.inside:
            kind = f"overlaps {before} by {reached - row.start:,}" if row.start < reached else "leaves a hole of"
            count = "" if row.start < reached else f" {row.start - reached:,}"
            findings.append(
                Finding(
                    "RK-FILE-17",
                    "broken-header",
                    Severity.ERROR,
                    f"{row.key}: its range starts at {row.start:,} and {kind}{count} bytes",
                    why="the ranges must follow each other without a gap; other readers refuse the file",
                    where=Where(key=row.key, offset=base + row.start),
                )
            )
        if row.stop >= reached:
            reached, before = row.stop, row.key
    outside = [row for row in rows if not row.inside]
    if outside:
        findings.append(
            Finding(
                "RK-FILE-04",
                "truncated-archive",
                Severity.ERROR,
                f"the file ends inside its tensors: found {base + size:,} of {base + reached:,} bytes; "
                f"{len(rows) - len(outside):,} of {len(rows):,} tensors are whole",
                why="the copy or the download stopped early, or the disk filled up while saving",
                do=rescue_words(source)
                if len(outside) < len(rows)
                else "copy or download it again and compare the sizes",
                where=Where(key=outside[0].key, offset=base + size),
            )
        )
    elif reached < size:
        findings.append(
            Finding(
                "RK-FILE-15",
                "trailing-bytes",
                Severity.ERROR,
                f"{size - reached:,} bytes follow the last tensor",
                why="the format wants the tensors to end at the end of the file; other readers refuse it",
                where=Where(offset=base + reached),
            )
        )


def _place(
    source: Source, base: int, rows: list[_Row], findings: list[Finding]
) -> tuple[list[TensorEntry], list[tuple[Value, Value]]]:
    entries: list[TensorEntry] = []
    pairs: list[tuple[Value, Value]] = []
    for row in rows:
        dtype, shape = _torch_type(row, findings)
        size = row.stop - row.start
        data = source.range(base + row.start, size) if row.inside else None
        storage = Storage(row.key, size, data)
        stride = contiguous_stride(shape)
        entries.append(TensorEntry(row.key, dtype, shape, stride, 0, storage))
        pairs.append((row.key, Tensor(storage, dtype, 0, shape, stride)))
    return entries, pairs


def _torch_type(row: _Row, findings: list[Finding]) -> tuple[str, tuple[int, ...]]:
    """Return torch's dtype and shape; elements smaller than a byte are shown as torch would hold them."""
    if row.dtype not in _SUB_BYTE_BITS:
        return DTYPE_OF_SAFETENSORS[row.dtype].name, row.shape
    if row.dtype == "F4" and row.shape and row.shape[-1] % 2 == 0:
        return "float4_e2m1fn_x2", (*row.shape[:-1], row.shape[-1] // 2)
    findings.append(
        Finding(
            "RK-FILE-33",
            "no-torch-dtype",
            Severity.NOTE,
            f"{row.key}: {row.dtype} {list(row.shape)} has no type in torch; its bytes are listed as uint8",
            why="several elements share a byte",
            where=Where(key=row.key),
        )
    )
    return "uint8", (row.stop - row.start,)
