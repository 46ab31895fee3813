"""A small training in one or several lives of a run, each ended by an exception that stands for kill -9."""

# ruff: noqa: NPY002 - NumPy's legacy global generator is what data sets draw from

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

DATA = TensorDataset(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40))


class Killed(Exception):
    """Stands for kill -9: raised in the body of the loop, and nothing of the run is closed in good order."""


def objects(**settings):
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, **settings)
    return {"model": model, "optimizer": optimizer, "scheduler": rk.schedule(optimizer, "cosine", total=100)}


def train(run, *, epochs=3, die_at=None, source=None, then=lambda _: None):
    """Train; return every drawn number and sample, and the weights."""
    tracked = objects()
    run.track(**tracked)
    loader = source(run) if source else run.loader(DATA, batch_size=7)
    seen = []
    for epoch in run.epochs(epochs):
        tracked["model"].train()
        for inputs, labels in run.batches(loader):
            loss = tracked["model"](inputs).square().mean() * (1 + 0.1 * random.random() * np.random.rand())
            loss.backward()
            tracked["optimizer"].step()
            tracked["scheduler"].step()
            tracked["optimizer"].zero_grad()
            run.step()
            seen.append((epoch, labels.tolist(), float(loss.detach())))
            then(run)
            if run.steps_done == die_at:
                raise Killed
        run.log(drawn=random.random(), value=float(np.random.rand()))
    return seen, [p.detach().clone() for p in tracked["model"].parameters()]


def in_lives(start, deaths, folder="cut", **settings):
    """Train in as many lives as there are deaths, and one more."""
    keep = settings.pop("keep", {})
    for step in deaths:
        with pytest.raises(Killed):
            train(start(folder, **keep), die_at=step, **settings)
    return train(start(folder, **keep), **settings)


def metrics(tmp_path, folder):
    return (tmp_path / folder / "metrics.jsonl").read_text()


def plain_training(run, *, bad_from, steps=15):
    """Train in the plain form of the loop, the loss NaN from a step on."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in range(run.steps_done, steps):
        optimizer.zero_grad()
        (model(torch.ones(2, 3)).square().mean() * (float("nan") if step >= bad_from else 1.0)).backward()
        optimizer.step()
        run.step()
