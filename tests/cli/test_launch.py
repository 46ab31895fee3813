"""The words of `rekindle launch`, without starting anything; the processes are in tests/parallel/test_launch.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fake_nvml import card, install


@pytest.fixture
def script(tmp_path):
    (tmp_path / "train.py").write_text("raise SystemExit('nothing of this is to run')")


def test_a_dry_run_shows_all_and_starts_nothing(cli, script):
    done = cli("launch", "--procs", "2", "--dry-run", "train.py", "--lr", "0.1", env={"OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "2 processes"
    assert lines[-1].startswith("  by hand   python")
    done = cli("launch", "--procs", "2", "--dry-run", "--json", "train.py")
    answer = json.loads(done.stdout)
    assert (answer["world_size"], answer["nodes"], answer["address"]) == (2, 1, "127.0.0.1")
    assert answer["by_hand"][-1] == "train.py"


def test_gpus_are_picked_by_free_memory_before_anything_starts(cli, script, tmp_path):
    env = install(tmp_path / "driver", [card(0, 5), card(1, 39), card(2, 20)])
    done = cli("launch", "--gpus", "2", "--dry-run", "train.py", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == (
        "2 processes; cuda:0 is GPU 1 NVIDIA A100 (39.0 GiB free), cuda:1 is GPU 2 NVIDIA A100 (20.0 GiB free)"
    )
    assert "  sets      CUDA_VISIBLE_DEVICES=1,2 CUDA_DEVICE_ORDER=PCI_BUS_ID" in done.stdout
    done = cli("launch", "--gpus", "2", "--min-free", "30 GB", "--dry-run", "train.py", env=env)
    assert done.returncode == 2
    assert "2 GPUs with 30.0 GiB free asked for, 1 can be had" in done.stderr
    assert "or on the CPU: rekindle launch --procs N" in done.stderr


def test_slurm_says_which_machine_this_is(cli, script):
    words = ["launch", "--nodes", "2", "--address", "127.0.0.1:1234", "--dry-run", "train.py"]
    assert "on machine 1 of 2" in cli(*words, env={"SLURM_NODEID": "1"}).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["launch"], "no script given"),
        (["launch", "nothing.py"], "nothing.py: there is no such script"),
        (["launch", "--gpus", "1", "--procs", "1", "train.py"], "not allowed with"),
        (["launch", "--min-free", "1 GB", "train.py"], "--min-free goes with --gpus"),
        (["launch", "--procs", "0", "train.py"], "--procs 0 is less than 1"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(cli, script, words, said):
    done = cli(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_launching_process_itself_never_loads_torch():
    code = "import sys; import rekindle.cli.launch, rekindle.parallel.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
