"""Under the loops of others: killed with SIGKILL in the middle of an epoch, each ends with the same bits."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB = ROOT / "tests" / "helpers" / "integration_jobs.py"
PACKAGE = {"lightning": "lightning", "huggingface": "transformers", "accelerate": "accelerate"}

pytestmark = pytest.mark.timeout(600)


def needs(kind):
    return pytest.mark.skipif(
        find_spec(PACKAGE[kind]) is None, reason=f"{PACKAGE[kind]} is not installed: make integrations installs it"
    )


EACH = [pytest.param(kind, marks=needs(kind)) for kind in PACKAGE]


def live(kind, folder, die_at=-1, workers=0, **environment):
    return subprocess.run(
        [sys.executable, str(JOB), kind, str(folder), str(die_at), str(workers)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def together(kind, folder, die_at=-1, processes=2, **environment):
    """Live on several processes, under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*torchrun, str(JOB), kind, str(folder), str(die_at), "0"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PROCESSES": str(processes), "SAVE_EVERY": "2 steps", **environment},
    )


def ends(done):
    """Return what each process ended with: rank 0's running statistics are those of all in a snapshot only."""
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(line for line in done.stdout.splitlines() if re.fullmatch(r"\d+ [0-9a-f]{64}", line))


def end(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def died(done):
    return done.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What each training ends with when nobody disturbs it, made once."""
    known = {}

    def ask(kind):
        if kind not in known:
            known[kind] = end(live(kind, tmp_path_factory.mktemp(kind) / "whole"))
            assert known[kind].startswith("15 ")
        return known[kind]

    return ask


@pytest.mark.parametrize("kind", EACH)
def test_a_training_that_is_killed_ends_with_the_same_bits(kind, straight, tmp_path):
    # Before the first snapshot, in the middle of an epoch, on an epoch's first step, in its last.
    for death in (2, 5, 10, 14):
        assert died(live(kind, tmp_path / "cut", death))
    assert end(live(kind, tmp_path / "cut")) == straight(kind)


@pytest.mark.parametrize("kind", [EACH[0], EACH[1]])
def test_the_number_of_workers_may_change_on_the_way(kind, straight, tmp_path):
    assert died(live(kind, tmp_path / "cut", 7, workers=2))
    assert end(live(kind, tmp_path / "cut", workers=1)) == straight(kind)


@pytest.mark.parametrize("kind", [EACH[0], EACH[2]])
def test_a_scheduler_s_signal_saves_and_leaves_with_the_code_to_requeue_on(kind, straight, tmp_path):
    told = live(kind, tmp_path / "cut", 7, DIE_OF="SIGTERM")
    assert told.returncode == 75, told.stderr[-3000:]
    assert "the same command goes on from there" in told.stderr
    assert end(live(kind, tmp_path / "cut")) == straight(kind)


@pytest.mark.parametrize("kind", [EACH[2]])
def test_accelerate_with_the_runs_own_loader_does_not_depend_on_workers(kind, tmp_path):
    own = {"REKINDLE_LOADER": "1"}
    whole = end(live(kind, tmp_path / "whole", **own))
    assert died(live(kind, tmp_path / "cut", 7, workers=2, **own))
    assert end(live(kind, tmp_path / "cut", **own)) == whole


@pytest.mark.parametrize("kind", EACH)
def test_a_damaged_snapshot_is_passed_over(kind, straight, tmp_path):
    folder = tmp_path / "cut"
    assert died(live(kind, folder, 10))
    newest = max(folder.glob("snapshots/step-*" if kind != "huggingface" else "checkpoint-*"), key=number)
    victim = newest / "model.safetensors"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    done = live(kind, folder)
    assert end(done) == straight(kind)
    assert f"passed over {newest.name}: model.safetensors" in done.stderr


@pytest.mark.parametrize("kind", [EACH[1]])
def test_a_checkpoint_that_was_never_sealed_is_moved_aside(kind, straight, tmp_path):
    folder = tmp_path / "cut"
    assert died(live(kind, folder, 10))
    (folder / "checkpoint-9" / "manifest.json").unlink()
    done = live(kind, folder)
    assert end(done) == straight(kind)
    assert "checkpoint-9: was never sealed" in done.stderr
    assert (folder / "passed-over-checkpoint-9" / "model.safetensors").exists()


@pytest.mark.parametrize("kind", EACH)
def test_a_training_that_is_complete_stays_as_it_is(kind, straight, tmp_path):
    assert end(live(kind, tmp_path / "run")) == straight(kind)
    if kind != "accelerate":  # whose loop prints what it has restored
        assert end(live(kind, tmp_path / "run")).startswith("15 ")


@pytest.mark.parametrize("kind", EACH)
def test_the_weights_are_plain_safetensors(kind, tmp_path):
    import rekindle as rk

    assert died(live(kind, tmp_path / "run", 11))  # late enough that one is there, however slow the disk is
    file, *_ = sorted((tmp_path / "run").glob("**/model.safetensors"))
    shutil.copy(file, tmp_path / "weights.safetensors")
    keys = [key.removeprefix("net.") for key in rk.load(tmp_path / "weights.safetensors")]
    assert {"0.weight", "0.bias", "1.running_mean", "4.weight"} <= set(keys)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", EACH)
def test_on_several_processes_one_that_is_killed_and_all_that_are_cost_no_bit(kind, processes, tmp_path):
    whole = ends(together(kind, tmp_path / "whole", processes=processes))
    assert len(whole) == processes
    one = together(kind, tmp_path / "cut", 3, processes, DIE_RANK="1")
    assert one.returncode == 1
    assert f"rank 1 of {processes} is gone" in one.stderr
    assert together(kind, tmp_path / "cut", 5, processes).returncode == 1
    assert ends(together(kind, tmp_path / "cut", processes=processes)) == whole


@pytest.mark.parametrize("kind", [EACH[0]])
def test_lightning_s_own_launcher_gives_the_bits_of_torchrun(kind, tmp_path):
    started = {"PROCESSES": "2", "SAVE_EVERY": "2 steps"}
    assert live(kind, tmp_path / "own", 5, DIE_RANK="1", **started).returncode != 0
    again = live(kind, tmp_path / "own", **started)
    assert ends(again) == ends(together(kind, tmp_path / "torchrun"))
    assert "goes on after step 4" in again.stderr
    assert "the run was on" not in again.stderr


@pytest.mark.parametrize("kind", [EACH[0]])
def test_lightning_s_other_strategies_are_refused(kind, tmp_path):
    done = live(kind, tmp_path / "run", PROCESSES="2", STRATEGY="ddp_fork")
    assert done.returncode != 0
    assert "this Trainer starts its processes by" in done.stderr + done.stdout


@pytest.mark.parametrize("kind", [EACH[0]])
def test_a_lightning_training_saved_at_the_end_of_an_epoch_leaves_no_epoch_out(kind, straight, tmp_path):
    by_epoch = {"SAVE_EVERY": "5 steps"}
    assert died(live(kind, tmp_path / "cut", 7, **by_epoch))
    assert end(live(kind, tmp_path / "cut", **by_epoch)) == straight(kind)


def number(path):
    return int(path.name.rpartition("-")[2])
