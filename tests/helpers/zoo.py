"""Objects of every kind that torch.save takes, and what torch itself says of their tensors.

`rows` walks live objects with torch's own attributes only; nothing of rekindle is used, so that two independent
answers can be compared.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import warnings
from collections.abc import Iterator

import torch
from torch import nn

FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool")
COMPLEX = ("complex128", "complex64", "complex32")
EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


class Odict(collections.OrderedDict):
    """A dict of a user's class."""


class Net(nn.Module):
    """A module with everything that makes state dicts hard."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (3, 5), padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))])
        self.tied = self.blocks[0]
        self.register_buffer("seen", torch.arange(3))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("absent", None)
        self.scale = nn.Parameter(torch.tensor(2.0))


def of_dtype(name: str, shape: tuple[int, ...] = (3, 4)) -> torch.Tensor:
    """Return a tensor of random bits of a dtype (0 or 1 for bool)."""
    dtype = getattr(torch, name)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape).bool()
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 256, (size,), dtype=torch.uint8).view(dtype).reshape(shape)


def strided() -> dict[str, object]:
    """Return tensors that lie in their storages in every way there is."""
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    shared = torch.arange(10.0)
    image = torch.randn(2, 3, 4, 5)
    return {
        "transposed": base.transpose(0, 2),
        "permuted": torch.randn(2, 3, 4).permute(1, 2, 0),
        "expanded": torch.arange(3.0).unsqueeze(1).expand(3, 4),
        "every other": torch.arange(20)[3::2],
        "channels_last": image.to(memory_format=torch.channels_last),
        "row": base[1],
        "column": base[:, 2],
        "whole": shared,
        "first": shared[:4],
        "last": shared[6:],
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0),
        "empty3": torch.empty(2, 0, 3),
        "windows": torch.arange(8.0).as_strided((3, 4), (2, 1)),
    }


# Types with a storage class of their own: torch cannot read back the others from an old stream.
TYPED = (*FLOATS, *INTEGERS[:5], "bool", *COMPLEX[:2])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's own deprecations (quantized, sparse) out of the way while it makes or loads such tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*(quantize|[Ss]parse|TypedStorage|ComplexHalf)", UserWarning)
        yield


def load(path: object) -> object:
    """Return what torch loads."""
    with quiet():
        return torch.load(path, weights_only=False)


def complete(names: tuple[str, ...] = (*FLOATS, *INTEGERS, *COMPLEX, *EIGHT_BITS)) -> dict[str, object]:
    """Return a checkpoint with these dtypes and every layout, several levels deep."""
    with quiet():
        return _complete(names)


def _complete(names: tuple[str, ...]) -> dict[str, object]:
    torch.manual_seed(0)
    complexes = torch.randn(3, 4, dtype=torch.complex64)
    dense = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])
    return {
        "dtypes": collections.OrderedDict((name, of_dtype(name)) for name in names),
        "scalars": {name: of_dtype(name, ()) for name in names},
        "transposed": {name: of_dtype(name, (5, 3)).t() for name in names},
        "strided": strided(),
        "quantized": {
            "tensor": torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 3, torch.quint8),
            "channel": torch.quantize_per_channel(
                torch.randn(3, 4), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2]), 0, torch.qint8
            ),
            "wide": torch.quantize_per_tensor(torch.randn(2), 0.5, 0, torch.qint32),
        },
        "sparse": {
            "coo": dense.to_sparse(),
            "csr": dense.to_sparse_csr(),
            "csc": dense.to_sparse_csc(),
            "bsr": torch.ones(4, 4).to_sparse_bsr((2, 2)),
        },
        "lazy": {
            "conj": complexes.conj(),
            "neg": torch.randn(3, 4, dtype=torch.complex64).conj().imag,
            "conj_t": complexes.conj().t(),
        },
        "parameters": {"weight": nn.Parameter(torch.randn(2, 2)), "frozen": nn.Parameter(torch.ones(1), False)},
        "nested": [torch.ones(2), (torch.zeros(1), {"deep": torch.arange(3)}), Odict(a=torch.ones(1))],
        7: {(1, 2): torch.ones(1), None: torch.zeros(1), True: torch.ones(2)},
        "epoch": 3,
        "name": "Zürich",
        "numbers": [1, 2.5, 3 + 4j, None, True, 2**80, b"bytes", {1, 2}, torch.Size([2, 3]), torch.float16],
    }


def rows(value: object, prefix: str = "") -> list[dict[str, object]]:
    """Return key, dtype, shape, stride, offset and digest of each tensor below a live object, in order."""
    if isinstance(value, torch.Tensor):
        return _tensor_rows(value, prefix)
    if isinstance(value, nn.Module):
        own = [*value._parameters.items(), *value._buffers.items(), *value._modules.items()]
        return [row for name, child in own for row in rows(child, _join(prefix, name))]
    if isinstance(value, dict):
        return [row for key, child in value.items() for row in rows(child, _join(prefix, _text(key)))]
    if isinstance(value, (list, tuple)):
        return [row for index, child in enumerate(value) for row in rows(child, _join(prefix, str(index)))]
    return []


def digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's elements, row-major and little-endian, by torch's own copying."""
    whole = tensor.detach().resolve_conj().resolve_neg()
    if whole.is_quantized:
        whole = whole.int_repr()
    whole = whole.contiguous() if whole.dtype.itemsize > 1 or not str(whole.dtype).startswith("torch.float") else whole
    flat = torch.empty(whole.shape, dtype=whole.dtype).copy_(whole)
    return hashlib.sha256(bytes(flat.reshape(-1).view(torch.uint8).tolist())).hexdigest()


def _tensor_rows(tensor: torch.Tensor, key: str) -> list[dict[str, object]]:
    layout = str(tensor.layout).removeprefix("torch.")
    if layout == "sparse_coo":
        return _named(key, {"indices": tensor._indices(), "values": tensor._values()})
    if layout in {"sparse_csr", "sparse_bsr"}:
        return _named(
            key,
            {"crow_indices": tensor.crow_indices(), "col_indices": tensor.col_indices(), "values": tensor.values()},
        )
    if layout in {"sparse_csc", "sparse_bsc"}:
        return _named(
            key,
            {"ccol_indices": tensor.ccol_indices(), "row_indices": tensor.row_indices(), "values": tensor.values()},
        )
    found = [
        {
            "key": key or "tensor",
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "offset": tensor.storage_offset(),
            "digest": digest(tensor),
        }
    ]
    if tensor.is_quantized and tensor.qscheme() == torch.per_channel_affine:
        scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
        found += _named(key, {"scales": scales, "zero_points": zeros})
    return found


def _named(key: str, parts: dict[str, torch.Tensor]) -> list[dict[str, object]]:
    return [row for name, part in parts.items() for row in _tensor_rows(part, f"{key}.{name}")]


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _text(key: object) -> str:
    if isinstance(key, tuple):
        return "(" + ", ".join(map(_text, key)) + ")"
    return str(key)
