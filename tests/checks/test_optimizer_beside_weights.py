"""Files that are mostly optimizer."""

from __future__ import annotations

import os

import torch
from doctoring import found, shown
from torch import nn


def checkpoint(kind: type[torch.optim.Optimizer]) -> dict[str, object]:
    torch.manual_seed(0)
    model = nn.Linear(200, 100)
    optimizer = kind(model.parameters(), lr=0.1)
    model(torch.ones(1, 200)).sum().backward()
    optimizer.step()
    return {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}


def test_adam_doubles_the_file_and_the_weights_come_out():
    torch.save(checkpoint(torch.optim.Adam), "m.pth")
    assert shown("m.pth", "optimizer-beside-weights") == (
        "note  m.pth: 160.8 kB belong to the optimizer and 80.4 kB to the model  [RK-FILE-77]\n"
        "  why     needed to go on with the training, and for nothing else; Adam keeps two numbers beside each weight\n"
        "  do      rekindle convert m.pth m.weights.pth --take state_dict"
    )
    assert os.path.getsize("m.weights.pth") < 85_000


def test_an_optimizer_without_buffers_is_not_worth_a_word():
    torch.save(checkpoint(torch.optim.SGD), "m.pth")
    assert found("m.pth", "optimizer-beside-weights") == []
