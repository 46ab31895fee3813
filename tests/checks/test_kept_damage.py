"""A rescued file that holds damaged tensors says so, also to those who did not make it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from doctoring import found, shown
from safetensors.torch import save_file

from rekindle.verbs.salvage import salvage


def damaged_archive() -> None:
    torch.save({"a": torch.arange(1000.0), "b": torch.arange(1000.0) + 0.5}, "m.pth")
    data = bytearray(Path("m.pth").read_bytes())
    data[data.index((torch.arange(1000.0) + 0.5).numpy().tobytes()) + 1234] ^= 1
    Path("m.pth").write_bytes(data)


def test_the_tensors_that_a_rescue_kept_though_damaged_are_named():
    damaged_archive()
    salvage("m.pth", "kept.safetensors", keep_damaged=True)
    assert shown("kept.safetensors", "kept-damage") == (
        "warning  kept.safetensors: 1 tensor is damaged, as the file itself says: b  [RK-FILE-89]\n"
        "  why     the checksums of the file that they came from were wrong; some of their numbers are not those that "
        "were saved\n"
        "  do      fill them from another save of the same model, or train on and watch them"
    )


def test_a_rescue_without_damaged_tensors_has_no_such_note():
    damaged_archive()
    salvage("m.pth", "rescued.safetensors")
    assert found("rescued.safetensors", "kept-damage") == []


@pytest.mark.parametrize("note", ["", "[", "[" * 100_000, "7", '["b"]', json.dumps({"of another file": "why"})])
def test_a_note_that_means_nothing_is_passed_over(note: str):
    save_file({"b": torch.ones(2)}, "m.safetensors", metadata={"rekindle.damaged": note})
    assert found("m.safetensors", "kept-damage") == []
