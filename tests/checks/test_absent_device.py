"""Tensors that were saved on a device that is not here."""

from __future__ import annotations

import pytest
import torch
from archives import changed
from doctoring import found, shown

CPU = {"cpu": 1}


def saved_on(device: str) -> None:
    """Write m.pth as a machine with that device would: only the place in the pickle differs."""
    torch.save({"w": torch.ones(2), "b": torch.zeros(2)}, "cpu.pth")
    place = device.encode()
    before, after = b"X\x03\x00\x00\x00cpu", b"X" + len(place).to_bytes(4, "little") + place
    from pathlib import Path

    changed(Path("cpu.pth"), Path("m.pth"), lambda name, data: (name, data.replace(before, after)))


def test_cuda_without_a_card_is_what_torch_says():
    saved_on("cuda:0")
    with pytest.raises(RuntimeError, match=r"torch\.cuda\.is_available\(\) is False"):
        torch.load("m.pth")
    assert shown("m.pth", "absent-device", devices=CPU) == (
        "warning  m.pth: 2 tensors were saved on cuda:0, which this machine does not have  [RK-FILE-72]\n"
        "  why     torch puts each tensor back where it was saved; without map_location, torch.load stops at "
        "`Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False`\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth     (or torch.load('m.pth', map_location=\"cpu\"))"
    )
    assert torch.load("m.fixed.pth")["w"].device.type == "cpu"


def test_a_card_with_too_high_a_number_is_named():
    saved_on("cuda:3")
    (finding,) = found("m.pth", "absent-device", devices={"cpu": 1, "cuda": 1})
    assert "CUDA device 3 but torch.cuda.device_count() is 1" in finding.why


def test_a_card_that_is_here_is_no_problem_and_neither_is_the_cpu():
    saved_on("cuda:0")
    assert found("m.pth", "absent-device", devices={"cpu": 1, "cuda": 1}) == []
    assert found("cpu.pth", "absent-device", devices=CPU) == []


def test_a_device_of_somebody_else_is_named_as_the_file_has_it():
    saved_on("xla:1")
    (finding,) = found("m.pth", "absent-device", devices=CPU)
    assert "saved on xla:1" in finding.what
