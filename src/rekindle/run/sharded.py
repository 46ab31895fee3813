"""Tensors of which each process has a part (`DTensor`), as boxes of the whole: what saving and restoring share.

FSDP2 cuts a parameter along one dimension into pieces of ceil(n / processes), the last ones shorter or empty; that is
what `Shard` means (torch 2.13 `distributed/tensor/placement_types.py`, `_split_tensor`). So every process can tell what
every other one has, and nothing needs to be said. A part that several processes have (`Replicate`) is written by the
first of them.

Law: nothing here talks to another process, and nothing imports torch's distributed tensors that nobody uses.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from rekindle.errors import StateMismatch

__all__ = ["Box", "boxes_of", "is_sharded", "local_of", "own_box", "part_of", "refuse_partial", "sharded_like"]


@dataclass(frozen=True, slots=True)
class Box:
    """What one process has of a tensor.

    Attributes:
        offset: index of its first element.
        shape: sizes; a size of 0 where the process has nothing.
        rank: of the process.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    rank: int


def is_sharded(value: object) -> bool:
    """Tell whether a value is a tensor of which each process has a part."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def local_of(tensor: Any) -> torch.Tensor:
    """Return the part that this process has; of any other tensor, itself."""
    local: torch.Tensor = tensor._local_tensor if is_sharded(tensor) else tensor  # noqa: SLF001 - to_local() makes a new tensor, and an autograd node
    return local


def refuse_partial(tensor: Any, where: str) -> None:
    """Make sure that the parts of a tensor are boxes of it.

    Raises:
        StateMismatch: they are not: sums that are still to be made, or stripes.
    """
    for placement in tensor.placements:
        if type(placement).__name__ not in {"Shard", "Replicate"}:
            raise StateMismatch(
                f"{where}: a tensor that lies as {placement} cannot be saved",
                why="what a process has of it is not a box of the whole",
                do="shard it with run.prepare(model, optimizer, shard='fsdp') alone",
            )


def boxes_of(tensor: Any) -> Iterator[Box]:
    """Yield the parts that together are the whole, each once, with the process that writes it."""
    mesh, placements = tensor.device_mesh, tensor.placements
    counts = [mesh.size(dim) if placement.is_shard() else 1 for dim, placement in enumerate(placements)]
    for coordinate in itertools.product(*(range(count) for count in counts)):
        offset, shape = _box(tuple(tensor.shape), placements, coordinate, mesh)
        yield Box(offset, shape, int(mesh.mesh[coordinate].item()))


def own_box(tensor: Any) -> Box:
    """Return what this process has of a tensor."""
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise StateMismatch("a tensor lies on other processes only", do="give the mesh all processes of the run")
    offset, shape = _box(tuple(tensor.shape), tensor.placements, tuple(coordinate), mesh)
    return Box(offset, shape, int(mesh.mesh[tuple(coordinate)].item()))


def part_of(whole: torch.Tensor, box: Box) -> torch.Tensor:
    """Return a view of a box of a tensor."""
    for dim, (start, size) in enumerate(zip(box.offset, box.shape, strict=True)):
        whole = whole.narrow(dim, start, size)
    return whole


def sharded_like(local: torch.Tensor, like: Any, *, shape: Sequence[int] | None = None) -> torch.Tensor:
    """Return a tensor that lies as another one does, made of what this process has of it.

    Args:
        local: this process's part; all of it where `shape` is given.
        like: the other one.
        shape: of the whole, where it is not that of `like`: then every process has all of it.
    """
    from torch.distributed.tensor import DTensor, Replicate  # noqa: PLC0415 - only where there are such tensors

    on_device = local.to(like.device)
    if shape is not None:
        copies = [Replicate()] * like.device_mesh.ndim
        return cast("torch.Tensor", DTensor.from_local(on_device, like.device_mesh, copies, run_check=False))
    stride = torch.empty(like.shape, device="meta").stride()
    return cast(
        "torch.Tensor",
        DTensor.from_local(
            on_device, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=stride
        ),
    )


def _box(
    shape: tuple[int, ...], placements: Sequence[Any], coordinate: Sequence[int], mesh: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    offset, sizes = [0] * len(shape), list(shape)
    for dim, placement in enumerate(placements):
        if placement.is_shard():
            axis = placement.dim % len(shape)
            each = -(-sizes[axis] // mesh.size(dim))
            start = min(each * coordinate[dim], sizes[axis])
            offset[axis] += start
            sizes[axis] = min(each, sizes[axis] - start)
    return tuple(offset), tuple(sizes)
