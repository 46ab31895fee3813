"""Bytes that changed after they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from doctoring import found, shown

from rekindle.errors import UnreadableFile
from rekindle.verbs.doctor import fix


def flip_one_bit() -> None:
    torch.save({"a": torch.arange(1000.0), "b": torch.arange(1000.0) + 0.5}, "m.pth")
    data = bytearray(Path("m.pth").read_bytes())
    at = data.index((torch.arange(1000.0) + 0.5).numpy().tobytes())
    data[at + 1234] ^= 1
    Path("m.pth").write_bytes(data)


def test_the_tensor_is_named_that_torch_loads_without_a_word():
    flip_one_bit()
    assert torch.load("m.pth")["b"].shape == (1000,)
    text = shown("m.pth", "changed-record", values=True)
    assert text.startswith("error  m.pth: b in m/data/1: its CRC-32 is ")
    assert text.endswith(
        "  [RK-FILE-79]\n"
        "  why     bytes changed after the file was written: a bad disk, a bad copy, or an edit; torch.load does "
        "not look\n"
        "  do      rekindle salvage m.pth -o m.rescued.safetensors     (1 of 2 tensors is whole; or get the file "
        "again from "
        "its source)"
    )


def test_a_whole_file_and_one_without_sums_have_none():
    torch.save({"a": torch.arange(1000.0)}, "m.pth")
    assert found("m.pth", "changed-record", values=True) == []
    from torch.utils.serialization import config

    config.save.compute_crc32 = False
    try:
        torch.save({"a": torch.arange(1000.0)}, "m.pth")
    finally:
        config.save.compute_crc32 = True
    assert found("m.pth", "changed-record", values=True) == []


def test_a_damaged_file_is_not_fixed_into_one_that_looks_whole():
    flip_one_bit()
    with pytest.raises(UnreadableFile, match="b in m/data/1: its CRC-32"):
        fix("m.pth", "out.pth")
    assert not Path("out.pth").exists()
