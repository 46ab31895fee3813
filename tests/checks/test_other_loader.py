"""Good files that `torch.load` is not for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from doctoring import found, shown
from torch import nn


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_a_note_with_the_right_call():
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "m.pt")
    with pytest.raises(RuntimeError, match="TorchScript archives"):
        torch.load("m.pt")
    assert shown("m.pt", "other-loader") == (
        "note  m.pt: a TorchScript archive  [RK-FILE-86]\n"
        "  why     torch.load is for files of torch.save: it stops at `Cannot use weights_only=True with "
        "TorchScript archives`\n"
        "  do      torch.jit.load('m.pt', map_location=\"cpu\")"
    )


def test_a_bare_pickle_is_converted():
    Path("m.pth").write_bytes(pickle.dumps({"w": [1.0, 2.0]}, 2))
    with pytest.raises(RuntimeError, match="Invalid magic number"):
        torch.load("m.pth")
    (finding,) = found("m.pth", "other-loader")
    assert finding.do == "rekindle convert m.pth m.converted.pth"
    assert torch.load("m.converted.pth") == {"w": [1.0, 2.0]}


def test_what_torch_save_wrote_is_for_torch_load():
    for stream in (False, True):
        torch.save({"w": torch.ones(2)}, "m.pth", _use_new_zipfile_serialization=not stream)
        assert found("m.pth", "other-loader") == []
