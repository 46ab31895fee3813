"""safetensors: a length, a JSON header, and the tensors' bytes one after another.

Law: what is written is byte for byte what the reference library writes for the same tensors and metadata, so the
order is fixed (element types from wide to narrow, then names) whatever order the tensors come in. Wide types first
keeps every tensor aligned to its own element size, since the header is padded with spaces to a multiple of eight.

Facts: safetensors 0.8 `tensor.rs` (`prepare`, `serialize`, the order of `Dtype`), and its README ("Format").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rekindle.errors import CannotWrite
from rekindle.source import Bytes
from rekindle.tensors import DTYPES, element_count
from rekindle.writers import PIECE_BYTES, Out

__all__ = ["HEADER_BYTES_MAX", "NamedTensor", "why_not", "write_tensors"]

HEADER_BYTES_MAX = 100_000_000

# The reference orders by its enumeration of types, widest alignment first.
_ORDER = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
_RANK = {name: rank for rank, name in enumerate(_ORDER)}


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """One tensor to be written.

    Attributes:
        key: its name in the file.
        dtype: name in `rekindle.tensors.DTYPES`.
        shape: sizes; empty for a scalar.
        data: its elements, row-major without gaps, little-endian.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    data: Bytes


def why_not(dtype: str) -> str:
    """Return why the format cannot hold elements of this type; empty where it can."""
    kind = DTYPES.get(dtype)
    if kind is None:
        return f"{dtype} is not a type that rekindle knows"
    if kind.safetensors is None:
        return f"safetensors has no type for {dtype}"
    return ""


def write_tensors(tensors: Sequence[NamedTensor], out: Out, metadata: Mapping[str, str] | None = None) -> None:
    """Write a whole safetensors file to `out`.

    Args:
        tensors: with unique keys, in any order.
        out: takes the bytes from start to end.
        metadata: text to text, for ``__metadata__``; ``{"format": "pt"}`` where None is given, as torch users expect;
            an empty mapping writes none.

    Raises:
        CannotWrite: a type the format lacks, a key twice, text that UTF-8 cannot carry, a tensor whose bytes are not
            as many as its type and shape say, or a header of more than 100,000,000 bytes. Nothing is written then.
    """
    ordered = sorted(tensors, key=_rank)
    out.write(_header(ordered, {"format": "pt"} if metadata is None else metadata))
    for tensor in ordered:
        for chunk in tensor.data.chunks(PIECE_BYTES):
            out.write(chunk)


def _rank(tensor: NamedTensor) -> tuple[int, bytes]:
    reason = why_not(tensor.dtype)
    if reason:
        raise CannotWrite(
            f"{tensor.key}: {reason}",
            why="the format knows plain numbers only",
            do="write a .pth file instead, or convert the tensor to a type that safetensors has",
        )
    return _RANK[str(DTYPES[tensor.dtype].safetensors)], tensor.key.encode("utf-8", "surrogatepass")


def _header(ordered: Sequence[NamedTensor], metadata: Mapping[str, str]) -> bytes:
    """Return the length, the header and its padding."""
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    at = 0
    for tensor in ordered:
        if tensor.key in header or tensor.key == "__metadata__":
            raise CannotWrite(f"{tensor.key}: this key is there twice", why="a safetensors file is one flat mapping")
        wanted = element_count(tensor.shape) * DTYPES[tensor.dtype].itemsize
        if tensor.data.size != wanted:
            raise CannotWrite(
                f"{tensor.key}: {tensor.data.size:,} bytes are given, {tensor.dtype} of shape "
                f"{list(tensor.shape)} has {wanted:,}"
            )
        header[tensor.key] = {
            "dtype": DTYPES[tensor.dtype].safetensors,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + wanted],
        }
        at += wanted
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise CannotWrite(
            f"{error.object[max(error.start - 40, 0) : error.end]!r}: UTF-8 cannot carry this name",
            why="it holds half of a surrogate pair",
            do="rename the key",
        ) from None
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES_MAX:
        raise CannotWrite(
            f"the header would have {len(text):,} bytes, readers accept {HEADER_BYTES_MAX:,}",
            why=f"{len(ordered):,} tensors have names and shapes of that size together",
            do="write several files",
        )
    return len(text).to_bytes(8, "little") + text
