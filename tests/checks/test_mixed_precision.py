"""Weights in several floating-point types."""

from __future__ import annotations

import torch
from doctoring import found, shown


def test_several_types_are_counted():
    state = {f"w{i}": torch.ones(4, dtype=torch.bfloat16) for i in range(3)}
    torch.save({**state, "norm.weight": torch.ones(4)}, "m.pth")
    assert shown("m.pth", "mixed-precision") == (
        "note  m.pth: the weights have several types: 3 bfloat16, 1 float32 (such as norm.weight)  [RK-FILE-74]\n"
        "  why     often meant (norms and scales kept in float32); if not, an operation on two of them stops at "
        "`expected "
        "scalar type` or `mat1 and mat2 must have the same dtype`\n"
        "  do      one type for all: model.load_state_dict(state) casts to the type that the model has; or "
        "model.to(torch.float32)"
    )


def test_one_type_with_integer_counters_is_not_mixed():
    torch.save({"w": torch.ones(4), "n": torch.tensor(3), "ids": torch.arange(4)}, "m.pth")
    assert found("m.pth", "mixed-precision") == []
