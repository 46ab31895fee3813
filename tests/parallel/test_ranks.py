"""Who a process is: from the environment, from Slurm, by hand; and every way of starting several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.errors import ConfigError
from rekindle.parallel.ranks import ALONE, Ranks, device_of, find_ranks, first_host, name_ranks

ROOT = Path(__file__).parents[2]
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        # A batch script knows the job's number of tasks, and is one process.
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_one_process_is_alone(environ):
    assert find_ranks(environ) == ALONE


def test_torchruns_variables_say_it_all():
    assert find_ranks(TORCHRUN) == Ranks(3, 8, 1, 0, "10.0.0.7", 29500, "environment")


def test_a_task_of_slurm_finds_its_first_host_and_a_port_of_the_job():
    environ = {
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "gpu[07-09,12],cpu3",
        "SLURM_JOB_ID": "41234",
    }
    assert find_ranks(environ) == Ranks(2, 4, 0, 0, "gpu07", 21234, "slurm")


@pytest.mark.parametrize(
    ("hosts", "first"), [("a1", "a1"), ("a1,b2", "a1"), ("a[3-5]", "a3"), ("a[03,7]-ib", "a03-ib"), ("", "")]
)
def test_the_first_host_of_a_list(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": "8"}, "RANK=8 and WORLD_SIZE=8 do not go together"),
        ({"RANK": "-1"}, "RANK=-1 and WORLD_SIZE=8 do not go together"),
        ({"RANK": "two"}, "RANK='two' is not a whole number"),
        ({"RANK": None}, "WORLD_SIZE=8 is set, and RANK is not"),
        ({"WORLD_SIZE": None}, "RANK=3 is set, and WORLD_SIZE is not"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE=8 is set, and MASTER_ADDR is not"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is not a port"),
    ],
)
def test_variables_that_make_no_sense_are_named(change, words):
    environ = {name: value for name, value in {**TORCHRUN, **change}.items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        find_ranks(environ)
    assert caught.value.what == words
    assert caught.value.do


def test_ranks_are_named_shortly():
    assert [name_ranks(each) for each in ([2], [0, 1], [1, 2, 3], [*range(9)])] == [
        "rank 2", "ranks 0 and 1", "ranks 1, 2 and 3", "ranks 0, 1, 2 and 6 more",
    ]  # fmt: skip


def run(*words: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_example_runs_under_torchrun_and_goes_on_alone(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    example = str(ROOT / "examples" / "many_processes.py")
    done = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", example, "runs/a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "after 48 steps on 2 processes" in done.stdout
    assert done.stdout.count("accuracy") == 1
    assert float(done.stdout.split()[1]) > 0.85
    again = run(example, "runs/a", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "already complete (3 epochs, 48 steps)" in again.stderr
    assert again.stdout.split()[1] == done.stdout.split()[1]


SPAWNED = """
import os
import time
import torch
import torch.multiprocessing as mp
import torch.distributed as dist
import rekindle as rk
from rekindle.parallel.ranks import Ranks, start

def work(rank, port, way):
    if way == "torch's own call":
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    else:
        start(Ranks(rank, 2, rank, 2, "127.0.0.1", port))
    with rk.Run(f"runs/{way}", seed=0, tensorboard=False) as run:
        assert (run.rank, run.world_size, run.is_main) == (rank, 2, rank == 0)
        assert run.reduce(rank + 1, "sum") == 3
        assert run.reduce(torch.tensor([1.0, rank]), "max").tolist() == [1.0, 1.0]
        assert run.reduce(float(rank), weight=1 + 2 * rank) == 0.75
        run.barrier()
        with run.rank_zero_first():
            if run.is_main:
                time.sleep(0.3)
                open(f"prepared {way}", "w").close()
            assert os.path.exists(f"prepared {way}")
    if way == "torch's own call":
        dist.destroy_process_group()

def port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

if __name__ == "__main__":
    mp.start_processes(work, (port(), "torch's own call"), nprocs=2, start_method="fork")
    mp.spawn(work, (port(), "arguments"), nprocs=2)
    print("both ways")
"""


def test_spawn_with_arguments_and_a_group_of_ones_own(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "script.py").write_text(SPAWNED)
    done = run("script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "both ways\n"
    assert done.stderr == ""


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as far as choosing one goes; what was chosen last is in the list."""
    torch = pytest.importorskip("torch")
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.parametrize("wanted", [None, "auto", "cuda"])
def test_each_process_gets_the_gpu_of_its_local_rank_also_on_a_second_machine(two_gpus, wanted):
    assert str(device_of(Ranks(3, 4, 1, 2), wanted)) == "cuda:1"
    assert two_gpus == [1]


def test_a_process_too_many_for_the_gpus_of_a_machine_is_told_before_nccl_is(two_gpus):
    with pytest.raises(ConfigError, match="local rank 2 has no GPU of its own: 2 to be seen on this machine") as caught:
        device_of(Ranks(2, 3, 2, 3), None)
    assert "torchrun --nproc-per-node 2" in caught.value.do
    assert two_gpus == []


@pytest.mark.parametrize(
    ("ranks", "wanted"), [(ALONE, "cuda"), (Ranks(1, 2, 1, 2), "cpu"), (Ranks(1, 2, 1, 2), "cuda:0")]
)
def test_nothing_is_chosen_for_one_process_or_against_a_wish(two_gpus, ranks, wanted):
    assert device_of(ranks, wanted) is None
    assert two_gpus == []
