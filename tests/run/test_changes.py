"""A fingerprint that notices what a resumed run would do twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rekindle.run.changes import fingerprint


@pytest.fixture
def tracked():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.register_buffer("seen", torch.zeros(2), persistent=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "own": np.random.default_rng(0),
        "run.state": {"bad": 1, "list": [1, (2.0, "x")]},
    }


def test_nothing_changed_and_looking_is_no_change(tracked):
    before = fingerprint(tracked)
    tracked["model"].eval()
    with torch.no_grad():
        tracked["model"](torch.randn(5, 3))
    assert fingerprint(tracked) == before is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["scheduler"].step(),
        lambda t: t["run.state"].update(bad=2),
        lambda t: t["own"].random(),
        lambda t: t["optimizer"].param_groups[0].update(lr=0.2),
        lambda t: t["optimizer"].step(),
        lambda t: t["model"].train()(torch.randn(5, 3)),
        lambda t: t["model"][0].weight.data.mul_(1.001),
        lambda t: t["model"].seen.add_(1),
        lambda t: next(iter(t["optimizer"].state.values()))["momentum_buffer"].data.neg_(),
    ],
)
def test_every_change_is_noticed(tracked, change):
    before = fingerprint(tracked)
    change(tracked)
    assert fingerprint(tracked) != before


@pytest.mark.parametrize("size", [3, 4000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_a_small_tensor_and_a_large_one_are_told_from_what_they_were(size, dtype):
    tensor = torch.zeros(size, dtype=dtype)
    before = fingerprint({"t": {"x": tensor}})
    tensor[-1] = 1
    assert fingerprint({"t": {"x": tensor}}) != before
    tensor[-1] = 0
    assert fingerprint({"t": {"x": tensor}}) == before


def test_a_value_of_another_type_or_shape_is_another_one():
    kinds = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.zeros(4, dtype=torch.int16)]
    assert len({fingerprint({"t": {"x": one}}) for one in kinds}) == 4


def test_all_kinds_of_tensors_have_one():
    kinds = [torch.float64, torch.bfloat16, torch.complex64, torch.bool, torch.uint8, torch.float8_e4m3fn]
    for dtype in kinds:
        tensor = torch.ones(3, 2).to(dtype).t()
        assert fingerprint({"t": {"x": tensor}}) is not None
    assert fingerprint({"t": {"x": torch.empty(0), "y": torch.tensor(1.0)}}) is not None


def test_an_object_that_cannot_be_looked_at_has_none():
    class Broken:
        def state_dict(self):
            raise RuntimeError("not now")

    assert fingerprint({"broken": Broken()}) is None
