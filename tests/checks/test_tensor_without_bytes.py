"""Tensors of the meta device."""

from __future__ import annotations

import torch
from doctoring import found, shown


def test_shapes_without_values_are_named():
    torch.save({"w": torch.empty(2, 2, device="meta"), "b": torch.ones(2)}, "m.pth")
    assert shown("m.pth", "tensor-without-bytes") == (
        "warning  m.pth: 1 of 2 tensors have a shape and no values: w  [RK-FILE-85]\n"
        "  why     the model was saved before its weights were filled in (device='meta'); the shapes are all there is\n"
        "  do      save again after the weights were loaded, or get the file from its source"
    )


def test_empty_tensors_have_all_of_their_values():
    torch.save({"w": torch.empty(0, 2), "m": torch.empty(0, device="meta")}, "m.pth")
    assert found("m.pth", "tensor-without-bytes") == []
