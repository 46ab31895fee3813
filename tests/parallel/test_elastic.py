"""What cannot have the same bits on any number of processes is refused; that all else has is in tests/run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rekindle.errors import ConfigError
from rekindle.parallel.elastic import Elastic, check_shards


@pytest.mark.parametrize("shards", [0, 3, 6, -4, 2.0, True])
def test_shards_are_a_power_of_two(shards):
    with pytest.raises(ConfigError, match="is not a power of two"):
        check_shards(shards, 1)


@pytest.mark.parametrize(("shards", "world_size"), [(4, 3), (4, 8), (1, 2)])
def test_each_process_has_the_same_number_of_shards(shards, world_size):
    with pytest.raises(ConfigError, match=f"cannot run on {world_size} processes") as caught:
        check_shards(shards, world_size)
    assert "possible" in caught.value.why


def test_statistics_over_all_processes_are_refused_also_on_one():
    """SyncBatchNorm is BatchNorm on one process, and would give other bits on two."""
    plain = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    Elastic(4, 0, 1).add(plain)
    together = nn.Sequential(nn.Linear(2, 3), nn.SyncBatchNorm(3))
    with pytest.raises(ConfigError, match=r'elastic="bits" and SyncBatchNorm \(1\) do not go together'):
        Elastic(4, 0, 1).add(together)


def test_what_is_thawed_between_two_batches_trains_from_then_on():
    elastic = Elastic(2, 0, 1)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first = list(model[0].parameters())
    for parameter in first:
        parameter.requires_grad_(requires_grad=False)
    elastic.add(model)

    def batch():
        for part in range(elastic.parts):
            elastic.begin(part, 1.0)
            model(torch.ones(4, 2)).sum().backward()
        elastic.finish()
        return [parameter.grad is not None for parameter in model.parameters()]

    assert batch() == [False, False, True, True]
    for parameter in first:
        parameter.requires_grad_()
    assert batch() == [True] * 4
