"""`rekindle fit`, as people type it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

FACTORY = """
from torch import nn

def build(classes=10):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))

def broken():
    raise ValueError("no data here")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    torch.save({"model": {f"module.{key}": value for key, value in theirs.state_dict().items()}}, tmp_path / "w.pth")
    return tmp_path


def fit(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rekindle", "fit", *arguments], cwd=folder, text=True, capture_output=True, check=False
    )


def test_the_report_says_what_fits_and_the_exit_code_whether_all_does(folder):
    done = fit(folder, "w.pth", "mine:build")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "w.pth -> Sequential: 4 of 4 tensors loaded (130 values)\n"
        "  taken from   ['model']\n"
        "  renamed      4: without the wrapper's parts\n"
    )
    done = fit(folder, "w.pth", "mine:build", "--arguments", '{"classes": 2}', "--json")
    assert done.returncode == 1
    states = {row["key"]: row["state"] for row in json.loads(done.stdout)["tensors"]}
    assert states == {"0.weight": "loaded", "0.bias": "loaded", "2.weight": "other-shape", "2.bias": "other-shape"}


def test_mistakes_are_answered_without_a_traceback_of_ours(folder):
    done = fit(folder, "w.pth", "mine:broken")
    assert done.returncode == 2
    assert "`broken` raised ValueError" in done.stderr
    assert "no data here" in done.stderr
    assert "rekindle/factories.py" not in done.stderr
    done = fit(folder, "w.pth", "mine:build", "--arguments", "classes=2")
    assert done.returncode == 2
    assert "--arguments is no JSON" in done.stderr
