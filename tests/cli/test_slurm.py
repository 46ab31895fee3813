"""The command `rekindle slurm`: where the script goes, and what is said; its content is in tests/parallel."""

from __future__ import annotations

import json
import os

import pytest


@pytest.fixture(autouse=True)
def script(tmp_path):
    (tmp_path / "train.py").write_text("")


def test_the_script_is_written_and_the_next_command_said(cli, tmp_path):
    done = cli("slurm", "--gpus", "2", "-o", "job.sh", "train.py", "--lr", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "2 ranks: 1 machine with 2 GPUs each\n"
        "  saves     300 seconds before the time limit, then asks to be queued again\n"
        "  start     sbatch job.sh\n"
        "  go on     the same command, after anything\n"
    )
    assert "--procs 2 train.py --lr 0.1\n" in (tmp_path / "job.sh").read_text()
    assert os.access(tmp_path / "job.sh", os.X_OK)


def test_the_file_may_stand_at_the_end_too(cli, tmp_path):
    assert cli("slurm", "train.py", "--lr", "0.1", "-o", "job.sh").returncode == 0
    assert "train.py --lr 0.1\n" in (tmp_path / "job.sh").read_text()


def test_without_a_file_the_script_goes_to_the_terminal(cli):
    done = cli("slurm", "train.py")
    assert done.stdout.startswith("#!/bin/bash\n#SBATCH --job-name=train\n")


def test_json(cli):
    done = cli("slurm", "--nodes", "2", "--procs", "3", "--json", "-o", "job.sh", "train.py")
    assert json.loads(done.stdout) == {"path": "job.sh", "start": ["sbatch", "job.sh"], "world_size": 6}


def test_a_script_that_somebody_changed_is_not_replaced(cli, tmp_path):
    assert cli("slurm", "-o", "job.sh", "train.py").returncode == 0
    assert cli("slurm", "-o", "job.sh", "train.py").returncode == 0  # the same: nothing to lose
    (tmp_path / "job.sh").write_text("mine")
    done = cli("slurm", "-o", "job.sh", "train.py")
    assert done.returncode == 2
    assert "job.sh: is there already" in done.stderr
    assert (tmp_path / "job.sh").read_text() == "mine"
    assert cli("slurm", "-o", "job.sh", "--force", "train.py").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no script given"),
        (["tran.py"], "nearest: train.py"),
        (["--time", "soon", "train.py"], "is no time limit"),
        (["--json", "train.py"], "--json needs -o FILE"),
        (["-o", ".", "train.py"], "a folder; the script needs a file name"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(cli, words, said):
    done = cli("slurm", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
