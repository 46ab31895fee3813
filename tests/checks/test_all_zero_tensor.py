"""Weight matrices of zeros."""

from __future__ import annotations

import torch
from doctoring import found, shown


def test_a_matrix_of_zeros_is_named():
    torch.save({"fc.weight": torch.zeros(30, 40), "fc.bias": torch.zeros(30), "ok.weight": torch.ones(2, 2)}, "m.pth")
    assert shown("m.pth", "all-zero-tensor", values=True) == (
        "warning  m.pth: 1 of 3 weights is all zeros: fc.weight  [RK-FILE-76]\n"
        "  why     never written, never trained, or lost on the way: a layer that gives zeros whatever comes in\n"
        "  do      compare with an earlier checkpoint, or with the file at its source"
    )


def test_one_number_that_is_not_zero_is_enough_and_biases_adapters_and_integers_may_be_zero():
    almost = torch.zeros(600, 600)
    almost[-1, -1] = 1e-30
    state = {"w": almost, "bias": torch.zeros(9), "lora_B.weight": torch.zeros(4, 4), "ids": torch.zeros(4, 4).long()}
    torch.save(state, "m.pth")
    assert found("m.pth", "all-zero-tensor", values=True) == []


def test_without_values_nobody_looks():
    torch.save({"w": torch.zeros(30, 40)}, "m.pth")
    assert found("m.pth", "all-zero-tensor") == []
