"""Small views of large storages."""

from __future__ import annotations

import os

import torch
from doctoring import found, shown


def test_a_slice_that_drags_its_tensor_along_is_cut_loose():
    torch.save({"head": torch.arange(100_000.0)[:10], "tied": torch.ones(3)}, "m.pth")
    assert shown("m.pth", "needless-bytes") == (
        "warning  m.pth: 400.0 kB of the file belong to no tensor: head shows 40 B of a storage of 400.0 kB  "
        "[RK-FILE-70]\n"
        "  why     a slice shares the storage of the tensor it was cut from, and torch.save writes storages "
        "whole; save "
        "slice.clone()\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth"
    )
    assert os.path.getsize("m.fixed.pth") < 5_000
    assert torch.equal(torch.load("m.fixed.pth")["head"], torch.arange(10.0))


def test_views_that_show_the_whole_storage_together_stay_as_they_are():
    base = torch.arange(100_000.0)
    torch.save({"first": base[:50_000], "last": base[50_000:]}, "m.pth")
    assert found("m.pth", "needless-bytes") == []


def test_tied_weights_stay_tied_when_something_else_is_cut_loose():
    weight = torch.randn(64, 64)
    torch.save({"a": weight, "b": weight, "cut": torch.zeros(100_000)[:5]}, "m.pth")
    assert found("m.pth", "needless-bytes")
    fixed = torch.load("m.fixed.pth")
    assert fixed["a"].data_ptr() == fixed["b"].data_ptr()
