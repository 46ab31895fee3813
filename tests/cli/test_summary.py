"""`rekindle summary`, as people type it."""

from __future__ import annotations

import json
import sys

import pytest

torch = pytest.importorskip("torch")

from rekindle.cli import main

FACTORY = """
import torch
from torch import nn

def build(classes=10):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, classes))

def needs_values():
    return nn.Linear(int(torch.linspace(0, 4, 5)[-1].item()), 2)

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 4)
    def forward(self, ids, mask=None):
        return self.words(ids) * mask

def broken():
    raise ValueError("no data here")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    return tmp_path


@pytest.fixture
def here(folder, monkeypatch, capsys):
    """Run `rekindle WORDS...` in this process, in the folder: starting torch for each would take most of the time."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        shown = capsys.readouterr()
        sys.modules.pop("mine", None)
        return code, shown.out, shown.err

    return run


def test_a_factory_with_an_input(cli, folder):
    done = cli("summary", "mine:build", "--input", "1,3,8,8", "--arguments", '{"classes": 2}')
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Sequential  input [1, 3, 8, 8]\n"
        "  layer  kind     output        parameters   FLOPs\n"
        "  0      Conv2d   [1, 8, 6, 6]         224  15.6 k\n"
        "  1      ReLU     [1, 8, 6, 6]\n"
        "  2      Flatten  [1, 288]\n"
        "  3      Linear   [1, 2]               578  1.15 k\n"
        "\n"
        "  parameters   802 (802 trained, 0 frozen)\n"
        "  size         3.2 kB\n"
        "  FLOPs        16.7 k in one pass\n"
        "  activations  2.3 kB, and 768 B of input\n"
    )
    assert done.stderr == ""


def test_named_inputs_and_a_factory_that_needs_values(here, folder):
    code, out, err = here("summary", "mine:Named", "--input", "ids=1,7:int64", "--input", "mask=1,7,4", "--json")
    assert code == 0, err
    assert json.loads(out)["layers"][0]["outputs"] == [[1, 7, 4]]
    code, out, err = here("summary", "mine:needs_values", "--input", "5,4")
    assert code == 0, err
    assert "[5, 2]" in out


def test_a_file_without_its_code(here, folder):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(4, 2))
    torch.save({"epoch": 3, "model": model.state_dict()}, folder / "check.pth")
    code, out, err = here("summary", "check.pth")
    assert code == 0, err
    assert out == (
        "check.pth: torch-zip, checkpoint\n"
        "  layer    kind        weight        parameters\n"
        "  model.0  Conv2d?     [8, 3, 3, 3]         224\n"
        "  model.1  BatchNorm?  [8]                   16\n"
        "  model.2  Linear?     [2, 4]                10\n"
        "\n"
        "  parameters   250\n"
        "  buffers      17\n"
        "  size         1.1 kB\n"
        "  note         a kind with a question mark is a guess from names and shapes: the file has no code\n"
    )
    _, folded, _ = here("summary", "check.pth", "--depth", "1")
    assert "  model" in folded
    assert "250" in folded


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine:broken"], "`broken` raised ValueError"),
        (["mine:buidl"], "nearest: build"),
        (["absent:build"], "there is no module `absent`"),
        (["mine:build", "--input", "1,4,8,8"], "Sequential does not take the input [1, 4, 8, 8]"),
        (["mine:build", "--input", "big"], "'big' is not the shape of an input"),
        (["mine:build", "--input", "x=1", "--input", "2"], "some have names and some do not"),
        (["mine:build", "--arguments", "classes=2"], "--arguments is no JSON"),
        (["mine:build", "--depth", "0"], "--depth 0 shows nothing"),
        (["nothere.pth"], "there is no such file or folder"),
        (["mine.py"], "mine.py"),
        (["mine.py", "--arguments", '{"a": 1}'], "mine.py is a file"),
    ],
)
def test_mistakes_are_answered_in_three_parts_with_code_2(here, folder, words, said):
    code, out, err = here("summary", *words)
    assert code == 2
    assert said in err
    assert out == ""
    assert "rekindle/" not in err  # none of our own lines
    assert err.count("Traceback") == (words == ["mine:broken"])
