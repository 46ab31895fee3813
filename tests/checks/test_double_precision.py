"""Weights in float64."""

from __future__ import annotations

import torch
from doctoring import found, shown


def test_float64_weights_are_a_note_with_both_sizes():
    torch.save({"a": torch.ones(1000, dtype=torch.float64), "b": torch.ones(3)}, "m.pth")
    assert shown("m.pth", "double-precision") == (
        "note  m.pth: 1 of 2 weights are float64: 8.0 kB, as float32 4.0 kB  [RK-FILE-73]\n"
        "  why     NumPy's default type, or torch.set_default_dtype(torch.float64), found its way into the model\n"
        "  do      rekindle convert m.pth m.float32.pth --dtype float32     (needs NumPy)"
    )
    assert {value.dtype for value in torch.load("m.float32.pth").values()} == {torch.float32}


def test_a_single_number_in_float64_is_not_worth_a_word():
    torch.save({"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.ones(3)}, "m.pth")
    assert found("m.pth", "double-precision") == []
