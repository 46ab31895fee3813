"""Element types, tensors and storages of a file, as facts without data.

One table of dtypes holds every naming (torch's, safetensors', the storage classes of pickles), so that a reader is
arithmetic on offsets and a writer a look-up. Names are torch's. Facts: PyTorch 2.13 `torch/serialization.py` and
`torch/storage.py` (storage classes), safetensors 0.8 `tensor.rs` (its dtype names).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekindle.source import Bytes

__all__ = [
    "DTYPES",
    "DTYPE_OF_SAFETENSORS",
    "DTYPE_OF_STORAGE",
    "DType",
    "Storage",
    "TensorEntry",
    "TensorTable",
    "contiguous_stride",
    "element_count",
    "span_of",
]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        name: torch's name without ``torch.``, such as ``bfloat16``.
        itemsize: bytes of one element.
        component: bytes that are swapped together when the byte order changes (complex: one part).
        safetensors: name in a safetensors header, or None where that format has none.
        storage: storage class in pickles (``FloatStorage``), or None where torch writes an untyped storage.
    """

    name: str
    itemsize: int
    component: int
    safetensors: str | None = None
    storage: str | None = None


def _dtypes() -> dict[str, DType]:
    rows = (
        # name, itemsize, component, safetensors, storage class
        ("float64", 8, 8, "F64", "DoubleStorage"),
        ("float32", 4, 4, "F32", "FloatStorage"),
        ("float16", 2, 2, "F16", "HalfStorage"),
        ("bfloat16", 2, 2, "BF16", "BFloat16Storage"),
        ("int64", 8, 8, "I64", "LongStorage"),
        ("int32", 4, 4, "I32", "IntStorage"),
        ("int16", 2, 2, "I16", "ShortStorage"),
        ("int8", 1, 1, "I8", "CharStorage"),
        ("uint8", 1, 1, "U8", "ByteStorage"),
        ("bool", 1, 1, "BOOL", "BoolStorage"),
        ("complex128", 16, 8, None, "ComplexDoubleStorage"),
        ("complex64", 8, 4, "C64", "ComplexFloatStorage"),
        ("qint8", 1, 1, None, "QInt8Storage"),
        ("quint8", 1, 1, None, "QUInt8Storage"),
        ("qint32", 4, 4, None, "QInt32Storage"),
        ("quint4x2", 1, 1, None, "QUInt4x2Storage"),
        ("quint2x4", 1, 1, None, "QUInt2x4Storage"),
        ("uint16", 2, 2, "U16", None),
        ("uint32", 4, 4, "U32", None),
        ("uint64", 8, 8, "U64", None),
        ("complex32", 4, 2, None, None),
        ("bcomplex32", 4, 2, None, None),
        ("float8_e4m3fn", 1, 1, "F8_E4M3", None),
        ("float8_e5m2", 1, 1, "F8_E5M2", None),
        ("float8_e4m3fnuz", 1, 1, "F8_E4M3FNUZ", None),
        ("float8_e5m2fnuz", 1, 1, "F8_E5M2FNUZ", None),
        ("float8_e8m0fnu", 1, 1, "F8_E8M0", None),
        ("float4_e2m1fn_x2", 1, 1, None, None),
        ("bits8", 1, 1, None, None),
        ("bits16", 2, 2, None, None),
        ("bits1x8", 1, 1, None, None),
        ("bits2x4", 1, 1, None, None),
        ("bits4x2", 1, 1, None, None),
    )
    return {row[0]: DType(*row) for row in rows}


DTYPES: Mapping[str, DType] = _dtypes()
DTYPE_OF_STORAGE: Mapping[str, DType] = {d.storage: d for d in DTYPES.values() if d.storage}
DTYPE_OF_SAFETENSORS: Mapping[str, DType] = {d.safetensors: d for d in DTYPES.values() if d.safetensors}


def element_count(shape: Iterable[int]) -> int:
    """Return the number of elements of a shape; 1 for a scalar."""
    count = 1
    for size in shape:
        count *= size
    return count


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the row-major stride of a shape, in elements, as torch gives it to a new tensor."""
    stride = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def span_of(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many elements of its storage a tensor reaches over, from its offset on; 0 when it is empty."""
    reach = 1
    for size, step in zip(shape, stride, strict=True):
        if size == 0:
            return 0
        reach += (size - 1) * step
    return reach


@dataclass(slots=True, eq=False)
class Storage:
    """A run of bytes that one or more tensors look into; compared by identity, so sharing is `is`.

    Some containers name a storage before they say where its bytes are: `data` is then filled in by the reader.

    Attributes:
        id: unique in its file; the record's key or name where the format has one.
        size_bytes: bytes the file declares for it.
        data: where the bytes are; None where there are none (meta tensors, skipped data).
        device: where it lay when saved, as the file says it: ``cpu``, ``cuda:0``, ...
        byteorder: ``little`` or ``big``.
    """

    id: str
    size_bytes: int
    data: Bytes | None
    device: str = "cpu"
    byteorder: str = "little"


# Never changed, and not `frozen`: a frozen one takes four times as long to make, a sixth of a long listing.
@dataclass(slots=True, unsafe_hash=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
        key: path through the saved object, joined with ``.``.
        dtype: name in `DTYPES`.
        shape: sizes.
        stride: in elements, one per dimension.
        offset: first element, in elements from the start of the storage.
        storage: the storage; entries that share one hold the very same value.
        layout: ``strided``; the parts of other tensors are entries of their own with the layout of the whole.
        requires_grad: as saved.
        parameter: whether it was an `nn.Parameter`.
        conj: whether the values are the complex conjugates of the stored bytes.
        neg: whether the values are the negatives of the stored bytes.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: Storage
    layout: str = "strided"
    requires_grad: bool = False
    parameter: bool = False
    conj: bool = False
    neg: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        return element_count(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's own elements (not of its storage)."""
        return self.numel * DTYPES[self.dtype].itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements lie row-major without gaps."""
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size == 0:
                return True
            if size != 1:
                if step != expected:
                    return False
                expected *= size
        return True


class TensorTable:
    """The tensors of a file in the order of the saved object.

    Args:
        entries: with unique keys.
    """

    def __init__(self, entries: Iterable[TensorEntry]) -> None:
        """Keep the entries."""
        self.entries = tuple(entries)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.entries)

    def __iter__(self) -> Iterator[TensorEntry]:
        """Iterate over the entries in order."""
        return iter(self.entries)

    def __getitem__(self, key: str) -> TensorEntry:
        """Return the entry with this key."""
        return self._by_key[key]

    def __contains__(self, key: object) -> bool:
        """Tell whether there is an entry with this key."""
        return key in self._by_key

    @cached_property
    def _by_key(self) -> dict[str, TensorEntry]:
        return {entry.key: entry for entry in self.entries}

    @cached_property
    def by_storage(self) -> dict[str, list[TensorEntry]]:
        """Entries by the id of their storage; more than one entry means that they share it."""
        groups: dict[str, list[TensorEntry]] = {}
        for entry in self.entries:
            groups.setdefault(entry.storage.id, []).append(entry)
        return groups
