"""What a process has of a tensor, computed without asking any other."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from rekindle.errors import StateMismatch
from rekindle.run.sharded import Box, boxes_of, is_sharded, local_of, own_box, part_of, refuse_partial


def tensor_on(mesh: torch.Tensor, placements: tuple[object, ...], shape: tuple[int, ...], here: tuple[int, ...]):
    """Return what stands for a sharded tensor: these functions ask for no more."""
    stand_in = SimpleNamespace(mesh=mesh, size=lambda dim: mesh.shape[dim], get_coordinate=lambda: list(here))
    return SimpleNamespace(shape=shape, placements=placements, device_mesh=stand_in)


@pytest.mark.parametrize("size", [0, 1, 2, 5, 8, 65])
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_a_cut_is_the_one_that_torch_makes(size, processes):
    from torch.distributed.tensor import Shard

    whole = torch.arange(size * 3).reshape(size, 3)
    pieces = list(torch.chunk(whole, processes)) if size else []
    pieces += [whole[:0]] * (processes - len(pieces))
    mesh = torch.arange(processes)
    boxes = list(boxes_of(tensor_on(mesh, (Shard(0),), (size, 3), (0,))))
    for rank, box in enumerate(boxes):
        assert box.rank == rank
        assert part_of(whole, box).equal(pieces[rank])
        assert own_box(tensor_on(mesh, (Shard(0),), (size, 3), (rank,))) == box


def test_copies_are_written_by_the_first_that_has_them():
    from torch.distributed.tensor import Replicate, Shard

    mesh = torch.arange(6).reshape(2, 3)
    boxes = list(boxes_of(tensor_on(mesh, (Replicate(), Shard(1)), (2, 7), (1, 2))))
    assert boxes == [Box((0, 0), (2, 3), 0), Box((0, 3), (2, 3), 1), Box((0, 6), (2, 1), 2)]
    assert own_box(tensor_on(mesh, (Replicate(), Shard(1)), (2, 7), (1, 2))) == Box((0, 6), (2, 1), 5)


def test_cuts_along_two_dimensions_of_the_mesh_cover_the_tensor_once():
    from torch.distributed.tensor import Shard

    whole = torch.zeros(7, 5)
    mesh = torch.arange(6).reshape(2, 3)
    for dims in itertools.product((0, 1), repeat=2):
        for box in boxes_of(tensor_on(mesh, tuple(map(Shard, dims)), (7, 5), (0, 0))):
            part_of(whole, box).add_(1)
    assert whole.equal(torch.full((7, 5), 4.0))


def test_what_is_no_box_of_the_whole_is_refused():
    from torch.distributed.tensor import Partial, Shard

    refuse_partial(SimpleNamespace(placements=(Shard(0),)), "model.w")
    with pytest.raises(StateMismatch, match=r"model\.w: a tensor that lies as"):
        refuse_partial(SimpleNamespace(placements=(Partial(),)), "model.w")


def test_an_ordinary_tensor_is_itself():
    tensor = torch.ones(2)
    assert local_of(tensor) is tensor
    assert not is_sharded(tensor)
