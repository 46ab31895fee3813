"""safetensors files that are cut, or whose header was overwritten.

The header describes each tensor in a piece of text of its own (``"key":{"dtype":...,"shape":...,"data_offsets":...}``),
so one wrong byte costs one description: where the JSON as a whole cannot be read, every piece is taken that can be read
by itself and whose numbers agree with each other. There is no checksum, so nothing is ever proven.

Facts: safetensors 0.8 `tensor.rs` (order of the fields, offsets counted from the end of the header).
"""

from __future__ import annotations

import json
import re
import shlex

from rekindle.finding import Finding, Severity, Where
from rekindle.formats import safetensors
from rekindle.limits import Limits
from rekindle.salvaging import Fate, Gone, Wreck
from rekindle.source import ByteRange, Source
from rekindle.tensors import DTYPE_OF_SAFETENSORS, Storage, contiguous_stride, element_count
from rekindle.tree import Map, Tensor, Value

__all__ = ["explore"]

_PIECE = re.compile(
    rb'"((?:[^"\\]|\\.){0,4096})"\s*:\s*\{\s*"dtype"\s*:\s*"(\w{1,16})"\s*,\s*"shape"\s*:\s*(\[[0-9, ]{0,2048}\])\s*,'
    rb'\s*"data_offsets"\s*:\s*\[\s*(\d{1,19})\s*,\s*(\d{1,19})\s*\]\s*\}'
)


def explore(source: Source, limits: Limits) -> Wreck | None:
    """Return what is left of a file; None where not even a part of its header can be read.

    Raises:
        LimitExceeded: the header needs more than `limits` allows.
    """
    wreck = Wreck(source.path, safetensors.NAME, source.size)
    length = int.from_bytes(source.read(0, 8), "little")
    if 8 + length <= source.size and length <= limits.header_bytes:
        opened = safetensors.read(source, limits)
        header_read = opened.listed and len(opened.table) > 0
        if header_read and not any(finding.code == "RK-FILE-17" for finding in opened.findings):
            wreck.tree = opened.tree
            wreck.findings.extend(finding for finding in opened.findings if finding.code != "RK-FILE-04")
            metadata = opened.facts.get("metadata")
            wreck.metadata = metadata if isinstance(metadata, dict) else {}
            _decide(wreck)
            return wreck
    return _by_pieces(source, length, limits, wreck)


def _decide(wreck: Wreck) -> None:
    tree = wreck.tree
    for _, tensor in tree.pairs if isinstance(tree, Map) else ():
        if isinstance(tensor, Tensor):
            storage = tensor.storage
            if storage.data is None and storage.size_bytes:
                wreck.decide(storage, Fate(proven=False, why="the file ends before the end of its bytes"))
            else:
                wreck.decide(storage, Fate(proven=False))


def _by_pieces(source: Source, length: int, limits: Limits, wreck: Wreck) -> Wreck | None:
    """Take the descriptions of a broken header one by one."""
    text = source.read(8, min(length if 8 + length <= source.size else limits.header_bytes, source.size - 8))
    text = text[: limits.header_bytes]
    found: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    twice: set[str] = set()
    last = 0
    for piece in _PIECE.finditer(text):
        row = _row(piece, limits)
        if row is None:
            continue
        last = piece.end()
        key = row[0]
        if key in found:
            twice.add(key)
        found[key] = row[1:]
    if not found:
        return None
    base, certain = _base(source, length, last, max(stop for _, _, _, stop in found.values()))
    overlapping = _overlapping(found)
    pairs: list[tuple[Value, Value]] = []
    for key, (dtype, shape, start, stop) in found.items():
        storage = Storage(key, stop - start, None)
        tensor = Tensor(storage, dtype, 0, shape, contiguous_stride(shape))
        if key in twice:
            wreck.decide(storage, Fate(proven=False, why="the broken header describes it twice"))
        elif key in overlapping:
            wreck.decide(storage, Fate(proven=False, why="by the broken header its bytes are also another tensor's"))
        elif base + stop > source.size:
            wreck.decide(storage, Fate(proven=False, why="the file ends before the end of its bytes"))
        else:
            storage.data = ByteRange(source, base + start, stop - start)
            wreck.decide(storage, Fate(proven=False))
        pairs.append((key, tensor))
    for start, stop in _holes(found, source.size - base):
        why = f"the part of the header that describes bytes {start:,} to {stop:,} of the tensors is broken"
        wreck.gone.append(Gone(f"bytes_{start}_{stop}", why))
    wreck.tree = Map(pairs)
    wreck.described = "partly"
    wreck.findings.append(
        Finding(
            "RK-SALV-03",
            "broken-description",
            Severity.ERROR,
            f"the header is broken; {len(found):,} tensors are described in the parts of it that can be read"
            + ("" if certain else f"; that the tensors begin at byte {base:,} is concluded from where they end"),
            "bytes of it were overwritten",
            f"with another file of the same model: rekindle salvage {shlex.quote(source.path)} --like OTHER",
            where=Where(offset=8),
        )
    )
    return wreck


def _row(piece: re.Match[bytes], limits: Limits) -> tuple[str, str, tuple[int, ...], int, int] | None:
    """Return (key, dtype, shape, start, stop) where the piece agrees with itself."""
    kind = DTYPE_OF_SAFETENSORS.get(piece[2].decode("ascii", "replace"))
    try:
        key, shape = json.loads(b'"' + piece[1] + b'"'), json.loads(piece[3])
    except ValueError:
        return None
    start, stop = int(piece[4]), int(piece[5])
    if kind is None or len(shape) > limits.tensor_dims or element_count(shape) * kind.itemsize != stop - start:
        return None
    return str(key), kind.name, tuple(shape), start, stop


def _overlapping(found: dict[str, tuple[str, tuple[int, ...], int, int]]) -> set[str]:
    """Return the keys whose bytes are also another tensor's."""
    overlapping: set[str] = set()
    reached, by = 0, ""
    for key, (_, _, start, stop) in sorted(found.items(), key=lambda row: (row[1][2], row[1][3])):
        if start < reached and stop > start:
            overlapping |= {key, by}
        if stop > reached:
            reached, by = stop, key
    return overlapping


def _holes(found: dict[str, tuple[str, tuple[int, ...], int, int]], size: int) -> list[tuple[int, int]]:
    """Return the ranges between and behind the tensors that no description covers."""
    holes: list[tuple[int, int]] = []
    reached = 0
    for start, stop in sorted((row[2], row[3]) for row in found.values()):
        if start > reached:
            holes.append((reached, start))
        reached = max(reached, stop)
    return [*holes, (reached, size)] if reached < size else holes


def _base(source: Source, length: int, last: int, total: int) -> tuple[int, bool]:
    """Return (first byte behind the header, whether the length in front of it can be believed).

    Args:
        source: the file.
        length: the number in front of the header.
        last: bytes of the header up to the end of its last description.
        total: bytes of all tensors that are described.
    """
    if last < length and 8 + length + total <= source.size:
        return 8 + length, True
    if 8 + last < source.size - total:
        return source.size - total, False
    # The length is wrong and the end is missing: the closing brace, padded with spaces to eight.
    return 8 + -(-(last + 1) // 8) * 8, False
