"""Pickles whose opcodes `weights_only=True` does not know."""

from __future__ import annotations

import pytest
import torch
from doctoring import found, shown


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_the_number_is_the_one_that_torch_prints():
    torch.save({"w": torch.ones(2)}, "m.pth", pickle_protocol=4)
    with pytest.raises(Exception, match="Unsupported operand 149"):
        torch.load("m.pth")
    assert shown("m.pth", "refused-opcode") == (
        "warning  m.pth: torch.load stops at `Unsupported operand 149`: FRAME at byte 2 of data.pkl  [RK-FILE-69]\n"
        "  why     weights_only=True, the default since torch 2.6, knows the opcodes of pickle protocol 2; this "
        "file was "
        "saved with another one, so it is refused however harmless it is\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth"
    )
    assert torch.equal(torch.load("m.fixed.pth")["w"], torch.ones(2))


def test_in_a_stream_the_place_is_the_magic_number():
    torch.save({"w": torch.ones(2)}, "m.pth", pickle_protocol=5, _use_new_zipfile_serialization=False)
    (finding,) = found("m.pth", "refused-opcode")
    assert finding.what.endswith("FRAME at byte 2 of the magic number")


def test_protocol_2_is_known():
    torch.save({"w": torch.ones(2)}, "m.pth")
    assert found("m.pth", "refused-opcode") == []
