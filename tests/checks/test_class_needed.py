"""Whole models, whose classes somebody must have."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from doctoring import found, shown
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)


@pytest.fixture
def gone(monkeypatch):
    """A class of a package that is importable while saving and not any more afterwards."""
    package = types.ModuleType("models_of_a_paper")
    package.Net = type("Net", (Net,), {"__module__": "models_of_a_paper"})
    monkeypatch.setitem(sys.modules, "models_of_a_paper", package)
    return package.Net


def test_the_class_is_named_and_the_weights_come_out_without_it(gone, monkeypatch):
    torch.manual_seed(0)
    model = gone()
    torch.save(model, "m.pth")
    monkeypatch.delitem(sys.modules, "models_of_a_paper")
    with pytest.raises(ModuleNotFoundError, match="No module named 'models_of_a_paper'"):
        torch.load("m.pth", weights_only=False)
    assert shown("m.pth", "class-needed") == (
        "warning  m.pth: a whole model, not its weights: loading it needs the class models_of_a_paper.Net  "
        "[RK-FILE-67]\n"
        "  why     torch.save(model) writes the names of the classes and none of their code; where they cannot be "
        "imported, torch.load ends in `ModuleNotFoundError: No module named 'models_of_a_paper'`\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth"
    )
    state, wanted = torch.load("m.fixed.pth"), model.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[key], wanted[key]) and type(state[key]) is torch.Tensor for key in wanted)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_source_code_in_old_files_is_mentioned(gone):
    torch.save(Net(), "m.pth", _use_new_zipfile_serialization=False)
    (finding,) = found("m.pth", "class-needed")
    assert "the file carries the source code of" in finding.what


def test_modules_of_torch_itself_need_no_class():
    torch.save(nn.Sequential(nn.Linear(2, 3)), "m.pth")
    assert found("m.pth", "class-needed") == []
