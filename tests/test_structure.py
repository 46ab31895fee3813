"""The outline of an object; modules exactly as PyTorch prints them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rekindle.formats import open_path
from rekindle.structure import structure_lines
from rekindle.tree import Global, Map, Module

MODULES = [
    nn.Conv1d(3, 4, 5),
    nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
    nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding="same", padding_mode="reflect"),
    nn.Conv3d(1, 2, (1, 2, 3)),
    nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1),
    nn.Linear(3, 4),
    nn.Linear(3, 4, bias=False),
    nn.Bilinear(2, 3, 4),
    nn.BatchNorm1d(3),
    nn.BatchNorm2d(3, momentum=None, affine=False),
    nn.InstanceNorm2d(3),
    nn.LayerNorm((3, 4)),
    nn.RMSNorm(4),
    nn.GroupNorm(2, 4),
    nn.Dropout(0.25),
    nn.Dropout2d(0.25, inplace=True),
    nn.Embedding(10, 3),
    nn.Embedding(10, 3, padding_idx=0, max_norm=1.0, scale_grad_by_freq=True, sparse=True),
    nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5, bidirectional=True),
    nn.LSTM(3, 4, proj_size=2),
    nn.GRU(3, 4, bias=False),
    nn.RNN(3, 4),
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.2, inplace=True),
    nn.ELU(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.PReLU(3),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Identity(),
    nn.Softmax(dim=1),
    nn.Flatten(),
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    nn.AvgPool2d(2),
    nn.AdaptiveAvgPool2d((1, 1)),
    nn.AdaptiveAvgPool2d(1),
    nn.PixelShuffle(2),
    nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Dropout(0.5))),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: repr(module).split("\n")[0])
@pytest.mark.parametrize("new", [True, False])
def test_a_module_is_shown_as_torch_prints_it(tmp_path: Path, module: nn.Module, new: bool):
    torch.save(module, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
    with open_path(tmp_path / "m.pt") as opened:
        assert "\n".join(structure_lines(opened.tree, 1000)) == repr(module)


def outline(tmp_path: Path, value: object) -> list[str]:
    torch.save(value, tmp_path / "x.pt")
    with open_path(tmp_path / "x.pt") as opened:
        return list(structure_lines(opened.tree, 1000))


def test_a_checkpoint_is_shown_as_an_outline(tmp_path: Path):
    value = {"model": {"w": torch.ones(2, 3)}, "epoch": 3, "betas": (0.9, 0.99), "history": [{"loss": 1.5}]}
    assert outline(tmp_path, value) == [
        "dict of 4",
        "  model: dict of 1",
        "    w: Tensor float32 [2, 3]",
        "  epoch: 3",
        "  betas: tuple (0.9, 0.99)",
        "  history: list of 1",
        "    0: dict of 1",
        "      loss: 1.5",
    ]


def test_what_was_shown_before_is_named(tmp_path: Path):
    shared = {"w": torch.ones(1)}
    assert outline(tmp_path, {"a": shared, "b": shared})[-1] == "  b: dict of 1 …  (same as a)"


def test_hostile_names_and_settings_are_harmless():
    module = Module(Global("torch.nn.modules.linear", "Linear"))
    module.attributes = Map([("in_features", "\x1b[2J"), ("out_features", 3)])
    module.modules["a\nb"] = Module(Global("m", "Net\x1b[31m"))
    text = "\n".join(structure_lines(module, 100))
    assert "\x1b" not in text
    assert "(a\\x0ab): Net\\x1b[31m()" in text


def test_the_outline_of_a_bomb_is_as_long_as_the_file():
    node: list[object] = [1]
    for _ in range(60):
        node = [node, node, "x" * 9, "x" * 9, *range(9)]
    lines = list(structure_lines(node, 10_000))  # type: ignore[arg-type] # lists of lists
    assert len(lines) < 1000


def test_deep_objects_end():
    node: list[object] = []
    for _ in range(5000):
        node = [node]
    assert list(structure_lines(node, 100_000))[-1].endswith("(--json lists all tensors)")  # type: ignore[arg-type] # as above
