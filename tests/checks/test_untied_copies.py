"""Tied weights that became two tensors."""

from __future__ import annotations

import torch
from doctoring import found, shown


def state(tied: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(100, 16)
    return {"wte.weight": weight, "norm.weight": torch.ones(16), "lm_head.weight": weight if tied else weight.clone()}


def test_equal_tensors_are_found_with_values():
    torch.save(state(tied=False), "m.pth")
    assert shown("m.pth", "untied-copies", values=True) == (
        "note  m.pth: lm_head.weight is a copy of wte.weight, 6.4 kB, bit for bit  [RK-FILE-71]\n"
        "  why     they were copied before saving; after loading, training changes one and not the other, unless the "
        "model ties them again\n"
        "  do      tie them after loading: model.lm_head.weight = model.wte.weight"
    )


def test_without_values_the_names_are_a_hint():
    torch.save(state(tied=False), "m.pth")
    (finding,) = found("m.pth", "untied-copies")
    assert finding.what.startswith("wte.weight and lm_head.weight have the same shape")
    assert finding.do == "rekindle doctor m.pth --values"


def test_tensors_that_share_their_storage_are_tied_already():
    torch.save(state(tied=True), "m.pth")
    assert found("m.pth", "untied-copies") == []
    assert found("m.pth", "untied-copies", values=True) == []


def test_one_bit_of_difference_is_no_copy():
    changed = state(tied=False)
    changed["lm_head.weight"][99, 15] += 1e-3
    torch.save(changed, "m.pth")
    assert found("m.pth", "untied-copies", values=True) == []
