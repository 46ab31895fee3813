"""What the elements of tensors are like: not finite, all zero, equal to those of others; one pass, without NumPy.

The trick for floats: a number is infinite or NaN when all bits of its exponent are set, and most of these bits lie in
its most significant byte. Every n-th byte of a piece is one slice, and looking for a byte in it is a `memchr`: the
piece is looked at element by element only when one of the few suspicious bytes is there, which for trained weights is
never. A run of zeros is compared with zeros.

Law: memory is one piece, whatever the tensor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from rekindle.errors import UnreadableFile
from rekindle.gather import gather
from rekindle.opened import Opened
from rekindle.tensors import DTYPES, TensorEntry

__all__ = ["ValueFacts", "facts_of_values", "is_all_zero"]

_PIECE = 1024**2
_ZEROS = bytes(_PIECE)
# A tensor may repeat few bytes to any size (`expand`); what is repeated more often than this is not read.
_FREE_BYTES = 64 * 1024**2
_MAX_REPEAT = 64


@dataclass(slots=True)
class ValueFacts:
    """What the elements of one tensor are like.

    Attributes:
        nan_at: index of the first NaN, row-major; None where there is none.
        infinite_at: index of the first infinity.
        all_zero: whether every bit of every element is 0.
        digest: (CRC-32, bytes); equal for equal elements, and nearly never otherwise.
    """

    nan_at: int | None = None
    infinite_at: int | None = None
    all_zero: bool = True
    digest: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class _Float:
    """How to see that a float is not finite.

    Attributes:
        size: bytes of one number.
        suspects: values of its most significant byte that say that it may be.
        exponent: bits that are all set when it is.
        mantissa: bits that tell a NaN from an infinity; -1 where the type has no infinity.
        exact: bit patterns that are NaN, where bits of an exponent do not tell.
    """

    size: int
    suspects: bytes
    exponent: int
    mantissa: int
    exact: frozenset[int] = field(default_factory=frozenset)


_HALF = _Float(2, bytes((*range(0x7C, 0x80), *range(0xFC, 0x100))), 0x7C00, 0x03FF)
_SINGLE = _Float(4, b"\x7f\xff", 0x7F800000, 0x007FFFFF)
_DOUBLE = _Float(8, b"\x7f\xff", 0x7FF0000000000000, 0x000FFFFFFFFFFFFF)
_FLOATS = {
    "float64": _DOUBLE,
    "complex128": _DOUBLE,
    "float32": _SINGLE,
    "complex64": _SINGLE,
    "float16": _HALF,
    "complex32": _HALF,
    "bfloat16": _Float(2, b"\x7f\xff", 0x7F80, 0x007F),
    "bcomplex32": _Float(2, b"\x7f\xff", 0x7F80, 0x007F),
    "float8_e5m2": _Float(1, bytes((*range(0x7C, 0x80), *range(0xFC, 0x100))), 0x7C, 0x03),
    "float8_e4m3fn": _Float(1, b"\x7f\xff", 0, -1, frozenset((0x7F, 0xFF))),
    "float8_e4m3fnuz": _Float(1, b"\x80", 0, -1, frozenset((0x80,))),
    "float8_e5m2fnuz": _Float(1, b"\x80", 0, -1, frozenset((0x80,))),
    "float8_e8m0fnu": _Float(1, b"\xff", 0, -1, frozenset((0xFF,))),
}
_FORMATS = {1: "B", 2: "<H", 4: "<I", 8: "<Q"}


def facts_of_values(opened: Opened, progress: Callable[[int, int], None] | None = None) -> dict[str, ValueFacts]:
    """Read every tensor once and return what it is like, by key; what cannot be read is left out.

    Args:
        opened: the file.
        progress: called with (bytes read, bytes in all).
    """
    facts: dict[str, ValueFacts] = {}
    done: dict[tuple[object, ...], ValueFacts] = {}
    total = sum(entry.size_bytes for entry in opened.table)
    read = 0
    for entry in opened.table:
        read += entry.size_bytes
        look = (id(entry.storage), entry.dtype, entry.offset, entry.shape, entry.stride, entry.conj, entry.neg)
        found = done.get(look)
        if found is None:
            found = _facts(entry)
            if found is None:
                continue
            done[look] = found
        facts[entry.key] = found
        if progress is not None:
            progress(min(read, total), total)
    return facts


def is_all_zero(entry: TensorEntry, most_bytes: int) -> bool | None:
    """Tell whether the first bytes of a tensor are all 0; None where it has none that can be read."""
    if entry.storage.data is None or not entry.numel:
        return None
    seen = 0
    try:
        for chunk in gather(entry).chunks(most_bytes):
            if not _is_zero(bytes(chunk)):
                return False
            seen += len(chunk)
            if seen >= most_bytes:
                break
    except UnreadableFile:
        return None
    return True


def _facts(entry: TensorEntry) -> ValueFacts | None:
    if entry.layout == "storage" or (entry.storage.data is None and entry.numel):
        return None
    if entry.size_bytes > max(_FREE_BYTES, _MAX_REPEAT * entry.storage.size_bytes):
        return None
    kind = _FLOATS.get(entry.dtype)
    found = ValueFacts(all_zero=entry.numel > 0)
    crc = at = 0
    rest = b""
    try:
        for chunk in gather(entry, conj=entry.conj, neg=entry.neg).chunks(_PIECE):
            piece = rest + bytes(chunk) if rest else bytes(chunk)
            cut = len(piece) - len(piece) % (kind.size if kind else 1)
            rest, piece = piece[cut:], piece[:cut]
            crc = crc32(piece, crc)
            zero = _is_zero(piece)
            found.all_zero = found.all_zero and zero
            if kind is not None and not zero and (found.nan_at is None or found.infinite_at is None):
                _look(piece, kind, at, found)
            at += len(piece)
    except UnreadableFile:
        return None
    found.digest = (crc, at)
    per_element = DTYPES[entry.dtype].itemsize // (kind.size if kind else 1)
    if kind is not None and per_element > 1:  # a complex number has two parts
        found.nan_at = None if found.nan_at is None else found.nan_at // per_element
        found.infinite_at = None if found.infinite_at is None else found.infinite_at // per_element
    return found


def _is_zero(piece: bytes) -> bool:
    if len(piece) <= _PIECE:
        return piece == (_ZEROS if len(piece) == _PIECE else _ZEROS[: len(piece)])
    return not piece.strip(b"\0")


def _look(piece: bytes, kind: _Float, at: int, found: ValueFacts) -> None:
    top = piece[kind.size - 1 :: kind.size]
    if not any(suspect in top for suspect in kind.suspects):
        return
    for index, (bits,) in enumerate(struct.iter_unpack(_FORMATS[kind.size], piece), at // kind.size):
        if kind.exact:
            if bits in kind.exact and found.nan_at is None:
                found.nan_at = index
        elif bits & kind.exponent == kind.exponent:
            if bits & kind.mantissa:
                found.nan_at = index if found.nan_at is None else found.nan_at
            else:
                found.infinite_at = index if found.infinite_at is None else found.infinite_at
        else:
            continue
        if found.nan_at is not None and (found.infinite_at is not None or kind.mantissa < 0):
            return
