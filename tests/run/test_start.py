"""Which words resume a run, and what a path to begin from may be."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import rekindle as rk
from rekindle.errors import NothingToResume
from rekindle.run.start import command_of_this_run


@pytest.mark.parametrize(
    ("started", "launched", "resumes"),
    [
        (["python", "train.py", "--lr", "1"], "", ["python", "train.py", "--lr", "1"]),
        (["python", "train.py"], json.dumps(["sbatch", "job.sh"]), ["sbatch", "job.sh"]),
        (["python", "train.py"], "not JSON", ["python", "train.py"]),
        (["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "kernel.json"], "", []),
        (["python", "-m", "colab_kernel_launcher", "-f", "kernel.json"], "", []),
        (
            ["python", "train.py", "--out", "runs/kernel_launcher"],
            "",
            ["python", "train.py", "--out", "runs/kernel_launcher"],
        ),
    ],
)
def test_the_words_that_resume_a_run_are_those_that_started_it_and_none_in_a_notebook(
    monkeypatch, started, launched, resumes
):
    monkeypatch.setattr(sys, "orig_argv", started)
    monkeypatch.setenv("REKINDLE_COMMAND", launched)
    assert command_of_this_run() == resumes


def test_a_checkpoint_file_is_no_snapshot_and_the_message_says_how_to_begin_with_it(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(NothingToResume) as caught:
        rk.Run(tmp_path / "run", seed=0, resume=tmp_path / "checkpoint.pth", tensorboard=False)
    assert caught.value.what.endswith("checkpoint.pth: a file, and no snapshot of a run")
    assert "rekindle.load(" in caught.value.do
    assert "before run.track" in caught.value.do
