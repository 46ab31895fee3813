"""Accidents that are no kills: what happens to a run's folder, disk, clock, data and memory while it is going on.

Each life is a process of its own. Whatever happened, the message says it, and the same command ends with the bits of a
run to which nothing happened.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lives import Nursery, kill_group

import crash
from rekindle.store.find import newest_good
from rekindle.store.layout import list_snapshots
from rekindle.verbs.clean import Rules, clean_run, plan_cleaning
from rekindle.verbs.runs import summarise_run


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery("accident_job")
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert live(nursery, out) == 0, output(out)
    return result(out)


@pytest.fixture(scope="module")
def interrupted(nursery, tmp_path_factory):
    """The folder of a run that was killed in its second epoch."""
    out = tmp_path_factory.mktemp("interrupted")
    assert live(nursery, out, at={"7": "kill"}, sleep=0.02) == -signal.SIGKILL
    assert newest_good(out / "run").step is not None
    return out / "run"


def config(out, **settings):
    return {"job": "accident_job", "folder": str(out / "run"), "out": str(out), **settings}


def live(nursery, out, **settings) -> int:
    return nursery.live(config(out, **settings))


def output(out) -> str:
    file = out / "output"
    return file.read_text(errors="replace") if file.exists() else ""


def result(out):
    return json.loads((out / "result.json").read_text())


def add(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def until(what, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def members(group: int) -> list[str]:
    """Return the processes of a group that are alive."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(name)
    return found


# ---- more than one at a time


def test_of_three_that_start_at_the_same_moment_one_runs_and_the_others_are_told_which(nursery, undisturbed, tmp_path):
    outs = [tmp_path / str(number) for number in range(3)]
    pids = [nursery.start(config(out, folder=str(tmp_path / "run"), sleep=0.08)) for out in outs]
    codes = [nursery.wait(pid) for pid in pids]
    assert sorted(codes) == [0, 1, 1], [output(out) for out in outs]
    winner = codes.index(0)
    for number in {0, 1, 2} - {winner}:
        assert "another process writes this run" in output(outs[number])
        assert f"process {pids[winner]} on " in output(outs[number])
    assert result(outs[winner]) == undisturbed


def test_a_run_that_is_stopped_for_a_while_keeps_its_folder_and_goes_on(nursery, undisturbed, tmp_path):
    first, other = tmp_path / "first", tmp_path / "other"
    pid = nursery.start(config(first, workers=1, sleep=0.02))
    until(lambda: "promised 2" in output(first))
    kill_group(pid, signal.SIGSTOP)
    assert live(nursery, other, folder=str(first / "run")) == 1
    assert f"process {pid} on " in output(other)
    plan = plan_cleaning(str(first / "run"), Rules(keep_last=2))
    assert f"process {pid} on " in plan.locked
    kill_group(pid, signal.SIGCONT)
    assert nursery.wait(pid) == 0, output(first)
    assert result(first) == undisturbed


# ---- the folder


@pytest.mark.parametrize("name", ["-rf  ☃ 名前\n\x1b[31m", os.fsdecode(b"no text \xff")], ids=["odd", "no text"])
def test_a_folder_may_have_any_name(name, nursery, undisturbed, tmp_path):
    assert live(nursery, tmp_path, folder=name, at={"7": "kill"}, tensorboard=None) == -signal.SIGKILL
    assert live(nursery, tmp_path, folder=name, tensorboard=None) == 0, output(tmp_path)
    assert result(tmp_path) == undisturbed
    assert summarise_run(tmp_path / name).newest.finished


def test_a_link_to_the_folder_is_as_good_as_the_folder(nursery, undisturbed, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    assert live(nursery, tmp_path, at={"7": "kill"}) == -signal.SIGKILL
    assert live(nursery, tmp_path, folder=str(tmp_path / "disk")) == 0, output(tmp_path)
    assert result(tmp_path) == undisturbed


@pytest.mark.parametrize("moment", ["opened", "at"])
def test_a_script_that_goes_elsewhere_keeps_the_folder_it_named(moment, nursery, undisturbed, tmp_path):
    """Before anything is restored and logged, and in the middle; the folder was named relative to where it began."""
    elsewhere = {"opened": "go elsewhere"} if moment == "opened" else {"at": {"1": "go elsewhere"}}
    settings = {"folder": "run", "tensorboard": True}
    at = {**elsewhere.get("at", {}), "7": "kill"}
    assert live(nursery, tmp_path, **settings, **{**elsewhere, "at": at}) == -signal.SIGKILL, output(tmp_path)
    assert live(nursery, tmp_path, **settings, **elsewhere) == 0, output(tmp_path)
    assert "run.json still names" not in output(tmp_path)
    assert result(tmp_path) == undisturbed
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("accident", "tensorboard", "words"),
    [
        ("move", True, "the run's folder was moved, replaced or emptied while the run was going on"),
        ("delete", False, "the run's folder was moved, replaced or emptied while the run was going on"),
        ("delete snapshots", False, "snapshots: was moved or deleted while the run was going on"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_folder_that_goes_away_is_said_as_such(accident, words, tensorboard, nursery, undisturbed, tmp_path):
    assert live(nursery, tmp_path, at={"3": accident}, tensorboard=tensorboard) == 1
    assert words in output(tmp_path)
    assert "untouched" not in output(tmp_path), "nobody knows that"
    if accident == "move":
        assert live(nursery, tmp_path, folder=str(tmp_path / "run-moved"), tensorboard=tensorboard) == 0
        assert "goes on after step 2" in output(tmp_path)
        assert result(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("what", "do", "said"),
    [
        ("no run.json", lambda run: (run / "run.json").unlink(), ""),
        ("an empty run.json", lambda run: (run / "run.json").write_bytes(b""), ""),
        ("a torn line", lambda run: add(run / "metrics.jsonl", b'{"step": 99, "ep'), ""),
        ("a stray file", lambda run: (run / "snapshots" / "step-99999999").write_bytes(b"x"), "it is not a folder"),
        (
            "an empty snapshot",
            lambda run: (run / "snapshots" / "step-00000099").mkdir(),
            "passed over step-00000099: manifest.json is missing: the save did not finish",
        ),
        (
            "a copy under a later step",
            lambda run: shutil.copytree(list_snapshots(run)[0].path, run / "snapshots" / "step-00000090"),
            "the folder is named for step 90",
        ),
        ("somebody's notes", lambda run: Path(list_snapshots(run)[0].path, "notes.txt").write_text("mine"), ""),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_a_folder_that_was_touched_between_two_lives_is_gone_on_with(
    what, do, said, nursery, undisturbed, interrupted, tmp_path
):
    shutil.copytree(interrupted, tmp_path / "run", symlinks=True)
    do(tmp_path / "run")
    assert live(nursery, tmp_path) == 0, output(tmp_path)
    assert said in output(tmp_path)
    assert result(tmp_path) == undisturbed, what


def test_lines_of_the_log_that_are_gone_are_said(nursery, undisturbed, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert live(nursery, tmp_path) == 0, output(tmp_path)
    assert "has 0 bytes, and had " in output(tmp_path)
    assert result(tmp_path)["weights"] == undisturbed["weights"]


def test_a_snapshot_that_goes_after_it_was_chosen_is_said_and_the_next_life_takes_the_one_before(
    nursery, undisturbed, interrupted, tmp_path
):
    shutil.copytree(interrupted, tmp_path / "run")
    before = [snapshot.step for snapshot in list_snapshots(tmp_path / "run")]
    assert live(nursery, tmp_path, opened="lose what it goes on from") == 1
    assert f"step-{before[0]:08d}: model.safetensors is gone, and so is the snapshot's folder" in output(tmp_path)
    assert live(nursery, tmp_path) == 0
    assert f"goes on after step {before[1]}" in output(tmp_path)
    assert result(tmp_path) == undisturbed


# ---- the disk, the clock, the machine


def test_on_a_network_disk_that_does_the_least_it_ends_with_the_same_bits(nursery, undisturbed, tmp_path):
    settings = {"first": "network disk", "keep_last": 2}
    assert live(nursery, tmp_path, at={"7": "kill"}, **settings) == -signal.SIGKILL, output(tmp_path)
    assert live(nursery, tmp_path, **settings) == 0, output(tmp_path)
    assert result(tmp_path) == undisturbed
    assert [snapshot.step for snapshot in list_snapshots(tmp_path / "run")] == [12, 10]
    clean_run(str(tmp_path / "run"), Rules())  # names that would not go are gone once nobody has them open
    assert not [name for name in os.listdir(tmp_path / "run" / "snapshots") if name.startswith(".")]


def test_files_that_may_not_grow_end_the_run_clearly_and_lose_nothing(nursery, undisturbed, tmp_path):
    assert live(nursery, tmp_path, large=20_000, at={"3": "short files"}, sleep=0.05) == 1
    assert "OSError: [Errno 27] File too large" in output(tmp_path)
    promised = {int(line.split()[1]) for line in output(tmp_path).splitlines() if line.startswith("promised")}
    assert {snapshot.step for snapshot in list_snapshots(tmp_path / "run")} >= promised
    assert live(nursery, tmp_path, large=20_000) == 0, output(tmp_path)
    assert result(tmp_path) == undisturbed


@pytest.mark.parametrize("jump", ["later", "earlier"])
def test_a_clock_that_jumps_by_years_changes_nothing(jump, nursery, undisturbed, tmp_path):
    """In the first life in the middle, in the second from the beginning; and back for whoever looks."""
    settings = {"save_every": "0.03 seconds", "sleep": 0.02, "tensorboard": True}
    assert live(nursery, tmp_path, at={"4": jump, "9": "kill"}, **settings) == -signal.SIGKILL
    promised = [line for line in output(tmp_path).splitlines() if line.startswith("promised")]
    assert 2 <= len(promised) <= 9, "neither at every step nor never again"
    assert live(nursery, tmp_path, first=jump, **settings) == 0, output(tmp_path)
    assert result(tmp_path) == undisturbed
    steps = [snapshot.step for snapshot in list_snapshots(tmp_path / "run")]
    assert len(steps) == 3, "the newest by step stay, whatever their dates say"
    assert steps[0] == 12


def test_too_little_memory_for_the_copy_is_said_and_loses_nothing(nursery, undisturbed, tmp_path):
    settings = {"large": 12_000_000}
    assert live(nursery, tmp_path, at={"0": "little memory"}, **settings) == 1
    words = output(tmp_path)
    assert "no memory for the copy that a snapshot is written from: 48,000,000 bytes more were asked for" in words
    assert list_snapshots(tmp_path / "run") == []
    assert live(nursery, tmp_path, **settings) == 0
    assert result(tmp_path) == undisturbed


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="this processor has no other set")
def test_other_vector_instructions_and_threads_are_said(nursery, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "run")
    helpers = Path(crash.__file__).parent
    done = subprocess.run(
        [sys.executable, str(helpers / "accident_job.py"), json.dumps(config(tmp_path))],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2", "PYTHONPATH": crash.SOURCE},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    now = torch.backends.cpu.get_cpu_capability()
    assert f"instructions: was {now}, is DEFAULT; the bits may differ from here on" in done.stderr
    assert "torch uses 1 thread now, as before, instead of 2: sums depend on it" in done.stderr


# ---- the data, and the person at the keyboard


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_break_in_mid_epoch_are_named_and_mended_data_go_on(workers, nursery, undisturbed, tmp_path):
    assert live(nursery, tmp_path, broken=17, workers=workers) == 1
    assert "ValueError: sample 17 cannot be read" in output(tmp_path)
    assert live(nursery, tmp_path, workers=workers) == 0, output(tmp_path)
    assert result(tmp_path) == undisturbed


@pytest.mark.parametrize("times", [2, 3])
def test_ctrl_c_again_and_again_on_a_slow_disk_leaves_soon_and_loses_nothing(times, nursery, undisturbed, tmp_path):
    pid = nursery.start(config(tmp_path, first="slow disk", workers=1, sleep=0.01))
    until(lambda: "promised 2" in output(tmp_path))
    for _ in range(times):
        kill_group(pid, signal.SIGINT)
        time.sleep(0.03)
    began = time.monotonic()
    assert nursery.wait(pid) in {1, 130}
    assert time.monotonic() - began < 10
    assert members(pid) == [], "a worker was left behind"
    found = newest_good(tmp_path / "run")
    assert found.step >= 2
    assert not found.passed_over
    assert live(nursery, tmp_path) == 0, output(tmp_path)
    assert result(tmp_path) == undisturbed
