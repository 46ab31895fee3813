"""Tensors as bytes and back: what capturing and restoring share.

Law: bits are moved, never converted; a tensor that comes back has the type, shape, stride and bytes that it had.
"""

from __future__ import annotations

import cmath
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rekindle.errors import RunError, StateMismatch, UnreadableFile
from rekindle.source import CHUNK_BYTES
from rekindle.store.crew import Crew, spare_threads
from rekindle.store.plain import Json, Path, encode, path_text
from rekindle.store.state import Reference
from rekindle.tensors import DTYPES

__all__ = [
    "HostBytes",
    "HostCopies",
    "alike",
    "all_finite",
    "copy_bits",
    "dtype_named",
    "expanded_dims",
    "is_dense",
    "items_of",
    "new_host_buffer",
    "on_device",
    "quantized",
    "quantizer_of",
    "sparse_parts",
    "touch",
    "view_of",
]

# Torch sums longer tensors with several threads, which would take processors away from the training.
_SUMMED_AT_ONCE = 32_768
_CHUNK_BYTES = 8 * 1024**2
_LARGE_BYTES = 64 * 1024
_PIECE_BYTES = 4 * 1024**2
_PIECES_WORTH_A_THREAD = 8
_SUMMED = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128})


@dataclass(frozen=True, slots=True)
class HostBytes:
    """The bytes of a contiguous CPU tensor, which it keeps alive."""

    tensor: torch.Tensor

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.tensor.nbytes

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes in pieces, without copying; larger ones than asked for, to come back to Python less often."""
        view = view_of(self.tensor)
        step = max(chunk_bytes, _CHUNK_BYTES)
        for at in range(0, len(view), step):
            yield view[at : at + step]


def view_of(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous CPU tensor as writable bytes; valid while the tensor lives."""
    if not tensor.nbytes:
        return memoryview(bytearray())
    return memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def copy_bits(target: Any, source: Any) -> None:
    """Copy values of the same type and shape; on the CPU torch moves the bits (NaN payloads included).

    Of a target that is expanded (elements that share memory) the memory is filled once.
    """
    for dim in expanded_dims(target):
        target, source = target.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    with torch.no_grad():
        target.copy_(source)


def expanded_dims(tensor: Any) -> list[int]:
    """Return the dimensions along which all elements lie in one place; torch refuses to write to such a tensor."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return []
    sizes = enumerate(zip(tensor.stride(), tensor.shape, strict=True))
    return [dim for dim, (stride, size) in sizes if stride == 0 and size > 1]


def new_host_buffer(tensor: torch.Tensor) -> torch.Tensor:
    """Return memory on the CPU for the elements of a tensor; pinned where a CUDA device will copy into it."""
    if tensor.is_cuda:
        try:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        except RuntimeError:  # the system lets nobody pin so much
            pass
    try:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    except RuntimeError as error:  # torch has no class of its own for it on the CPU
        raise RunError(
            f"no memory for the copy that a snapshot is written from: {tensor.nbytes:,} bytes more were asked for",
            why="a snapshot is copied before it is written, so a run takes the memory of its state once more",
            do="fewer data loader workers, a smaller batch, or a machine with more memory; earlier snapshots are "
            "untouched, and the same command goes on from the newest",
        ) from error


def touch(buffer: torch.Tensor) -> None:
    """Write to memory that is new, so that it is really there; the first write is what costs."""
    if buffer.nbytes:
        ctypes.memset(buffer.data_ptr(), 0, buffer.nbytes)


class HostCopies:
    """Copies of tensors into contiguous host buffers of their type and shape.

    From a CUDA device into pinned memory a copy is only ordered: it is done, before anything that is ordered after it
    on this stream, once an event that is recorded now has come. Large blocks of host memory are copied in `finish`, by
    several threads where there is much of it: this one does what no other has begun, so it never waits for one that
    the system gives no processor to (torch's own threads wait for each other, long where data loaders keep all busy).
    All else is done at once.
    """

    def __init__(self) -> None:
        """Nothing is put off yet."""
        self._later: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy a tensor now, or have `finish` do it; neither may change before."""
        plain = source.device.type == "cpu" and source.is_contiguous() and not (source.is_conj() or source.is_neg())
        if plain and source.nbytes >= _LARGE_BYTES:
            self._later.append((target, source))
        elif plain and source.nbytes:
            ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
        else:
            with torch.no_grad():
                target.copy_(source, non_blocking=source.is_cuda and target.is_pinned())

    def finish(self) -> None:
        """Do what was put off."""
        pieces = [
            partial(
                ctypes.memmove, target.data_ptr() + at, source.data_ptr() + at, min(_PIECE_BYTES, source.nbytes - at)
            )
            for target, source in self._later
            for at in range(0, source.nbytes, _PIECE_BYTES)
        ]
        with Crew(pieces, spare_threads() if len(pieces) >= _PIECES_WORTH_A_THREAD else 0) as crew:
            crew.results()
        self._later.clear()


def all_finite(tensor: torch.Tensor) -> bool:
    """Tell whether a CPU tensor of floating or complex numbers holds neither NaN nor infinity; any other does not."""
    if tensor.dtype not in _SUMMED:  # whole numbers; and floats of 8 bits or fewer, which no optimizer updates
        return True
    # A sum is finite only if all is, and costs a tenth of asking each element; it may overflow without one.
    flat = tensor.reshape(-1)
    parts = (flat[at : at + _SUMMED_AT_ONCE] for at in range(0, flat.numel(), _SUMMED_AT_ONCE))
    return all(cmath.isfinite(part.sum().item()) or bool(torch.isfinite(part).all()) for part in parts)


def is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Tell whether a tensor's elements fill a block without gaps or overlap, in some order of the dimensions."""
    expected = 1
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size == 0:
            return False
        if size == 1:
            continue
        if step != expected:
            return False
        expected *= size
    return True


def dtype_named(name: str) -> torch.dtype:
    """Return torch's type of elements of this name; UnreadableFile where there is none."""
    kind = getattr(torch, name, None) if name in DTYPES else None
    if not isinstance(kind, torch.dtype):
        raise UnreadableFile(f"{ascii(name)[:40]} is not a type of elements that this torch has")
    return kind


def on_device(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """Return the tensor where it was, or on the CPU where that device is not there."""
    if device == "cpu":
        return tensor
    try:
        return tensor.to(device)
    except (RuntimeError, AssertionError):  # torch built without CUDA asserts
        return tensor


def quantizer_of(tensor: torch.Tensor) -> Json:
    """Return scheme, scales and zero points of a quantized tensor, exactly."""
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return ["per_tensor_affine", encode(tensor.q_scale()), int(tensor.q_zero_point())]
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return [
        "per_channel_affine",
        [encode(scale) for scale in scales.double().tolist()],
        [encode(zero) for zero in zeros.tolist()],
        int(tensor.q_per_channel_axis()),
        str(zeros.dtype).removeprefix("torch."),
    ]


def quantized(data: torch.Tensor, reference: Reference) -> torch.Tensor:
    """Return the quantized tensor that these bytes and the reference's quantizer are."""
    scheme, *numbers = items_of(reference.quantizer)
    kind = {"qint8": torch.int8, "quint8": torch.uint8, "qint32": torch.int32}.get(str(reference.dtype))
    if kind is None:
        raise UnreadableFile(f"{reference.key}: {reference.dtype} cannot be restored")
    whole = data.clone().view(kind).reshape(reference.shape or ())
    if scheme == "per_tensor_affine":
        scale, zero = numbers
        return torch._make_per_tensor_quantized_tensor(whole, float(str(scale)), int(str(zero)))  # noqa: SLF001 - what torch.load uses
    scales, zeros, axis, zero_kind = numbers
    return torch._make_per_channel_quantized_tensor(  # noqa: SLF001 - what torch.load uses
        whole,
        torch.tensor([float(str(scale)) for scale in items_of(scales)], dtype=torch.float64),
        torch.tensor([float(str(zero)) for zero in items_of(zeros)], dtype=dtype_named(str(zero_kind))),
        int(str(axis)),
    )


def sparse_parts(tensor: torch.Tensor, path: Path) -> list[tuple[str, torch.Tensor]]:
    """Return the named parts that make up a sparse tensor; StateMismatch for a layout without such parts."""
    if tensor.layout == torch.sparse_coo:
        whole = tensor.detach()
        return [("indices", whole._indices()), ("values", whole._values())]  # noqa: SLF001 - the public ones want a coalesced tensor
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        rows = (("crow_indices", tensor.crow_indices()), ("col_indices", tensor.col_indices()))
        return [*rows, ("values", tensor.values())]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        columns = (("ccol_indices", tensor.ccol_indices()), ("row_indices", tensor.row_indices()))
        return [*columns, ("values", tensor.values())]
    raise StateMismatch(f"{path_text(path)}: a tensor of layout {tensor.layout} cannot be saved")


def alike(one: Any, other: Any) -> bool:
    """Tell whether both are tensors of one shape, type and layout."""
    both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return both and (one.shape, one.dtype, one.layout) == (other.shape, other.dtype, other.layout)


def items_of(value: Json) -> list[Json]:
    """Return a JSON list, or raise `UnreadableFile`."""
    if not isinstance(value, list):
        raise UnreadableFile("a list is expected")
    return value
