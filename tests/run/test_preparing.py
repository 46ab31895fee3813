"""`run.prepare`: what comes back, and the names that it is tracked under."""

from __future__ import annotations

import torch
from small_lives import DATA
from torch import nn


def test_prepare_names_tracks_and_returns_in_order(start):
    run = start()
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (first, second)]
    loader = run.loader(DATA)
    assert run.prepare(first) is first
    assert run.prepare(first, second, *optimizers, loader) == (first, second, *optimizers, loader)
    assert list(run.tracked_now()) == ["model", "model_2", "optimizer", "optimizer_2", "run.state"]
