"""Floating-point elements in another type, piece by piece on the way from file to file, rounded as torch rounds.

Rounding is to nearest, ties to even; what is too large becomes infinite, or in float8_e4m3fn, which has no
infinity, the largest value, 448 (as in torch 2.13; older ones made NaN of it). float64 goes to the smaller types by way
of float32, since torch does (rounding twice can differ from rounding once). A NaN stays a NaN: its payload differs
between torch's own code paths and processors, so it is no part of the promise. The types of 8 bits are read through a
table of their 256 values.

Casting billions of elements is work for NumPy, which is imported here when the first element is cast and nowhere else
on the file side. Facts: PyTorch 2.13 `c10/util/BFloat16.h` (`round_to_nearest_even`), `torch/headeronly/util/
Float8_*.h` (the values of the 8-bit types).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rekindle.errors import CannotWrite
from rekindle.gather import gather_elements, part_of
from rekindle.source import CHUNK_BYTES, Bytes
from rekindle.tensors import DTYPES, Storage, contiguous_stride, element_count
from rekindle.tree import Map, StorageRef, Tensor, Value, distinct_nodes

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "FLOATS",
    "TARGETS",
    "Cast",
    "CastReport",
    "Tally",
    "as_numbers",
    "cast_tensors",
    "numpy_for",
    "spared_by_casts",
    "whole_elements",
]

_LARGE = ("float64", "float32", "float16", "bfloat16")
# Without a scale of their own; the other types of 8 bits are read only.
TARGETS = (*_LARGE, "float8_e4m3fn", "float8_e5m2")
# name -> bits of the exponent, bits of the mantissa, bias of the exponent
_EIGHT_BITS = {
    "float8_e4m3fn": (4, 3, 7),
    "float8_e5m2": (5, 2, 15),
    "float8_e4m3fnuz": (4, 3, 8),
    "float8_e5m2fnuz": (5, 2, 16),
    "float8_e8m0fnu": (8, 0, 127),
}
FLOATS = (*_LARGE, *_EIGHT_BITS)

# Half-way between 448, the largest value, and what would be the next.
_E4M3FN_ROUNDS_TO_MAX = 464

# Elements of one step: the copies that a cast makes stay in the processor's cache, and memory stays small.
_STEP = 1 << 18


@dataclass(slots=True)
class Tally:
    """What casting did to the values.

    Attributes:
        overflowed: values that became infinite, or the largest value where the type has no infinity.
        vanished: values other than zero that became zero.
    """

    overflowed: int = 0
    vanished: int = 0


@dataclass(frozen=True, slots=True)
class Cast:
    """Elements of one type as elements of another.

    Attributes:
        data: the elements, little-endian.
        source: their type, one of `FLOATS`.
        target: the type to hand out, one of `TARGETS`.
        tally: counts what was lost in range.
    """

    data: Bytes
    source: str
    target: str
    tally: Tally

    @property
    def size(self) -> int:
        """Number of bytes that come out."""
        return self.data.size // DTYPES[self.source].itemsize * DTYPES[self.target].itemsize

    def sub(self, offset: int, size: int) -> Bytes:
        """Return a part of what comes out, in whole elements, without casting what lies before it."""
        old, new = DTYPES[self.source].itemsize, DTYPES[self.target].itemsize
        return Cast(part_of(self.data, offset // new * old, size // new * old), self.source, self.target, self.tally)

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the elements in the new type."""
        step = max(min(_STEP, chunk_bytes // 8), 1)
        for elements in whole_elements(self.data, DTYPES[self.source].itemsize, step):
            yield memoryview(_cast(elements, self.source, self.target, self.tally).tobytes())


def numpy_for(what: str) -> Any:
    """Return NumPy.

    Raises:
        CannotWrite: it is not installed.
    """
    try:
        import numpy  # noqa: PLC0415, ICN001 - the file side works without it; only this asks for it
    except ImportError:
        raise CannotWrite(
            f"{what} needs NumPy, which is not installed",
            why="every element is computed; in plain Python that takes a minute per ten million",
            do="pip install numpy",
        ) from None
    return numpy


def whole_elements(data: Bytes, itemsize: int, elements: int) -> Iterator[memoryview]:
    """Yield a run of bytes in pieces of at most `elements` elements, none cut; bytes behind the last are dropped."""
    rest = b""
    for chunk in data.chunks():
        whole = memoryview(rest + bytes(chunk)) if rest else memoryview(chunk).cast("B")
        cut = len(whole) - len(whole) % itemsize
        for at in range(0, cut, elements * itemsize):
            yield whole[at : min(at + elements * itemsize, cut)]
        rest = bytes(whole[cut:])


def _cast(elements: memoryview, source: str, target: str, tally: Tally) -> np.ndarray[Any, Any]:
    np = numpy_for("a cast")
    values = as_numbers(elements, source)
    with np.errstate(all="ignore"):  # what overflows is counted
        if target == "float64":
            return values.astype("<f8")
        single = values.astype("<f4", copy=False)
        if target == "float32":
            made = as_single = single
        elif target == "float16":
            made = single.astype("<f2")
            as_single = made.astype("<f4")
        elif target in _EIGHT_BITS:
            made = _in_8_bits(single, target)
            as_single = as_numbers(memoryview(made.tobytes()), target)
        else:
            bits = single.view("<u4")
            # Adding half of the last kept bit, less one where that bit is even, rounds to nearest even.
            made = ((bits + ((bits >> 16) & 1) + np.uint32(0x7FFF)) >> 16).astype("<u2")
            made[np.isnan(single)] = 0x7FC0
            as_single = (made.astype("<u4") << 16).view("<f4")
        if target != source:
            if target == "float8_e4m3fn":
                tally.overflowed += int(np.count_nonzero(np.abs(single) > _E4M3FN_ROUNDS_TO_MAX))
            else:
                tally.overflowed += int(np.count_nonzero(np.isinf(as_single)) - np.count_nonzero(np.isinf(values)))
            tally.vanished += int(np.count_nonzero(values) - np.count_nonzero(as_single))
    return made


def _in_8_bits(single: np.ndarray[Any, Any], target: str) -> np.ndarray[Any, Any]:
    """Return float32 values in one of the 8-bit types that are cast to."""
    np = numpy_for("a cast")
    _, mantissa_bits, bias = _EIGHT_BITS[target]
    bits = single.view("<u4")
    sign, size = (bits >> 24) & 0x80, bits & 0x7FFFFFFF
    drop = 23 - mantissa_bits
    # As for bfloat16, with the exponent counted from the new bias; what wraps around is too small and comes next.
    rounded = size + ((size >> drop) & 1) + np.uint32((1 << (drop - 1)) - 1) - np.uint32((127 - bias) << 23)
    made = rounded >> drop
    # Below the smallest normal value, adding a number whose last bit is the smallest subnormal rounds to one of these.
    anchor = np.array([2.0 ** (1 - bias - mantissa_bits + 23)], "<f4")
    small = size < (128 - bias) << 23
    made[small] = (size[small].view("<f4") + anchor).view("<u4") - anchor.view("<u4")
    # 448, the value in front of NaN; or infinite.
    largest = 0x7E if target == "float8_e4m3fn" else 0x7C
    made[(made > largest) & ~small] = largest
    made[size > 0x7F800000] = 0x7F
    return (made | sign).astype("u1")  # type: ignore[no-any-return]  # NumPy came as Any


def as_numbers(elements: memoryview, dtype: str) -> np.ndarray[Any, Any]:
    """Return elements as an array that NumPy computes with, each value exact; complex types as pairs.

    Args:
        elements: whole elements, little-endian.
        dtype: name in `rekindle.tensors.DTYPES` of a number type.

    Raises:
        KeyError: a type without numbers of its own (quantized, bits, packed).
    """
    np = numpy_for("comparing values")
    if dtype == "bfloat16":
        raw = np.frombuffer(elements, "<u2")
        return (raw.astype("<u4") << 16).view("<f4")  # type: ignore[no-any-return]  # NumPy came as Any
    if dtype in _EIGHT_BITS:
        table = np.array(_values_of_8_bits(dtype), "<f4")
        return table[np.frombuffer(elements, "u1")]  # type: ignore[no-any-return]  # NumPy came as Any
    return np.frombuffer(elements, _ARRAYS[dtype])  # type: ignore[no-any-return]  # NumPy came as Any


_ARRAYS = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "complex128": "<f8",
    "complex64": "<f4",
    "complex32": "<f2",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "qint8": "i1",
    "quint8": "u1",
    "qint32": "<i4",
}


def _values_of_8_bits(dtype: str) -> list[float]:
    """Return the values of the bytes 0 to 255."""
    exponent_bits, mantissa_bits, bias = _EIGHT_BITS[dtype]
    if dtype == "float8_e8m0fnu":
        return [2.0 ** (byte - bias) for byte in range(255)] + [float("nan")]
    values = []
    for byte in range(128):
        exponent, mantissa = byte >> mantissa_bits, byte & ((1 << mantissa_bits) - 1)
        fraction = mantissa / (1 << mantissa_bits)
        values.append(2.0 ** (exponent - bias) * (1 + fraction) if exponent else 2.0 ** (1 - bias) * fraction)
    if dtype == "float8_e5m2":
        top = ((1 << exponent_bits) - 1) << mantissa_bits
        values[top:] = [float("inf")] + [float("nan")] * (127 - top)
    elif dtype == "float8_e4m3fn":
        values[127] = float("nan")
    negative = [-value for value in values]
    if dtype.endswith("fnuz"):
        negative[0] = float("nan")  # these have no negative zero; its place stands for NaN
    return values + negative


@dataclass(slots=True)
class CastReport:
    """What `cast_tensors` did.

    Attributes:
        cast: type -> number of tensors that had it and are cast.
        left: type -> number of tensors that keep it.
        untied: tensors that shared their bytes with some of another type and now have their own.
        tally: filled while the new bytes are written.
    """

    cast: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    untied: int = 0
    tally: Tally = field(default_factory=Tally)


def cast_tensors(tree: Value, target: str, bytes_of: Callable[[Storage], Bytes | None]) -> CastReport:
    """Give the floating-point tensors of an object another type, in place; nothing is read yet.

    Storages are cast as wholes, so views and tied weights stay what they are. Integers, complex and quantized tensors,
    the scales of quantizers and the step counters of optimizers are left alone.

    Args:
        tree: what holds the tensors.
        target: one of `TARGETS`.
        bytes_of: gives a storage's bytes, or None where it has none.

    Raises:
        CannotWrite: NumPy is not installed.
    """
    numpy_for(f"casting to {target}")
    report = CastReport()
    spared = spared_by_casts(tree)
    windows: dict[int, list[Tensor]] = {}
    whole: dict[int, bool] = {}
    for node in distinct_nodes(tree):
        if isinstance(node, StorageRef):
            whole[id(node.storage)] = False
        elif isinstance(node, Tensor):
            windows.setdefault(id(node.storage), []).append(node)
    for key, tensors in windows.items():
        wanted = [t for t in tensors if t.dtype in FLOATS and t.quantizer is None and id(t) not in spared]
        changed = [tensor for tensor in wanted if tensor.dtype != target]
        moving = {id(tensor) for tensor in changed}
        for tensor in tensors:
            counts = report.cast if id(tensor) in moving else report.left
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
        if not changed:
            continue
        if whole.get(key, True) and len(wanted) == len(tensors) and len({t.dtype for t in tensors}) == 1:
            storage = _cast_storage(tensors[0].storage, tensors[0].dtype, target, report.tally, bytes_of)
            for tensor in tensors:
                tensor.storage, tensor.dtype = storage, target
        else:
            for tensor in changed:
                _cast_alone(tensor, target, report.tally)
            report.untied += len(changed)
    return report


def spared_by_casts(tree: Value) -> set[int]:
    """Return the ids of tensors that must keep their type: scales of quantizers, and counters of steps."""
    spared: set[int] = set()
    for node in distinct_nodes(tree):
        if isinstance(node, Tensor):
            spared.update(id(part) for part in node.quantizer or () if isinstance(part, Tensor))
        elif isinstance(node, Map):
            # float16 cannot count beyond 2,048.
            spared.update(
                id(child)
                for key, child in node.pairs
                if key == "step" and isinstance(child, Tensor) and not child.shape
            )
    return spared


def _cast_storage(
    storage: Storage, source: str, target: str, tally: Tally, bytes_of: Callable[[Storage], Bytes | None]
) -> Storage:
    count = storage.size_bytes // DTYPES[source].itemsize
    data = bytes_of(storage)
    made: Bytes | None = None
    if data is not None:
        raw = Storage(storage.id, storage.size_bytes, data, storage.device, storage.byteorder)
        made = Cast(gather_elements(raw, source, 0, (count,), (1,)), source, target, tally)
    return Storage(storage.id, count * DTYPES[target].itemsize, made, storage.device)


def _cast_alone(tensor: Tensor, target: str, tally: Tally) -> None:
    count = element_count(tensor.shape)
    made: Bytes | None = None
    if tensor.storage.data is not None:
        data = gather_elements(tensor.storage, tensor.dtype, tensor.offset, tensor.shape, tensor.stride, neg=tensor.neg)
        made = Cast(data, tensor.dtype, target, tally)
        tensor.neg = False
    size = count * DTYPES[target].itemsize
    tensor.storage = Storage(f"{tensor.storage.id}-{target}-{id(tensor):x}", size, made, tensor.storage.device)
    tensor.offset, tensor.stride, tensor.dtype = 0, contiguous_stride(tensor.shape), target
