"""Paths that only some versions have."""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from doctoring import found, shown


def test_numpy_2_and_systems_are_named():
    torch.save({"acc": np.float64(0.5), "w": torch.ones(1)}, "m.pth")
    assert shown("m.pth", "moved-modules") == (
        "note  m.pth: loading needs names that only some versions have: numpy._core.multiarray.scalar: NumPy 2 "
        "and newer "
        "(in 1.x it is numpy.core)  [RK-FILE-84]\n"
        "  why     where the path does not exist, torch.load ends in `No module named` or `cannot instantiate`\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth"
    )
    torch.save({"root": pathlib.PosixPath("a"), "w": torch.ones(1)}, "m2.pth")
    (finding,) = found("m2.pth", "moved-modules")
    assert "Windows cannot make one" in finding.what


def test_plain_values_need_nothing():
    torch.save({"acc": 0.5, "root": "a", "w": torch.ones(1)}, "m.pth")
    assert found("m.pth", "moved-modules") == []
