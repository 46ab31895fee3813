"""Signals, as schedulers and people send them: to every process of the job, at any moment."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from lives import Nursery, kill_group

from rekindle.store.find import newest_good


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    known = {}

    def result(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in known:
            out = tmp_path_factory.mktemp("undisturbed")
            assert nursery.live({"folder": str(out / "run"), "out": str(out), **settings}) == 0
            known[key] = json.loads((out / "result.json").read_text())
        return known[key]

    return result


def members(group: int) -> list[str]:
    """Return the processes of a group that are alive."""
    found = []
    for name in os.listdir("/proc"):
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if name.isdigit() and int(fields[2]) == group and fields[0] != "Z":
            found.append(name)
    return found


def until(what, seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def interrupted(nursery, out, number, when, **settings):
    """Begin a life, send a signal to all its processes once `when(run folder, pid)`; return code and seconds."""
    config = {"folder": str(out / "run"), "out": str(out), **settings}
    pid = nursery.start(config)
    until(lambda: when(out / "run", pid))
    began = time.monotonic()
    kill_group(pid, number)
    code = nursery.wait(pid)
    seconds = time.monotonic() - began
    assert members(pid) == [], "workers were left behind"
    return code, seconds


def finish(nursery, out, **settings):
    assert nursery.live({"folder": str(out / "run"), "out": str(out), **settings}) == 0, (out / "output").read_text()
    return json.loads((out / "result.json").read_text())


def logged(lines):
    """Wait until so many lines are logged."""
    return lambda run, _pid: (
        (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) >= lines
    )


def has_workers(run, pid):
    return len(members(pid)) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("form", ["own", "dataloader"])
def test_a_scheduler_that_signals_every_process_is_obeyed_at_a_boundary(form, number, nursery, undisturbed, tmp_path):
    settings = {"form": form, "workers": 2}
    code, seconds = interrupted(nursery, tmp_path, number, logged(1), slow=0.02, save_every="1000 steps", **settings)
    assert code == 75
    assert seconds < 5
    output = (tmp_path / "output").read_text()
    assert f"{number.name}: saving at the next boundary, then leaving with code 75" in output
    found = newest_good(tmp_path / "run")
    assert found.step is not None
    assert f"saved after step {found.step}; the same command goes on from there" in output
    assert "Traceback" not in output
    assert finish(nursery, tmp_path, **settings) == undisturbed(**settings)


def test_a_signal_while_waiting_for_a_slow_batch_does_not_wait_for_it(nursery, undisturbed, tmp_path):
    """Eight samples of a batch take four seconds in each of two workers."""
    code, seconds = interrupted(nursery, tmp_path, signal.SIGTERM, has_workers, slow=0.5, workers=2)
    assert code == 75
    assert seconds < 3
    assert finish(nursery, tmp_path, workers=2) == undisturbed()


def test_a_signal_in_a_long_evaluation_does_not_wait_for_its_end(nursery, undisturbed, tmp_path):
    """A short one is carried to its end: tests/run/test_leaving_behind_the_loop.py."""
    code, seconds = interrupted(nursery, tmp_path, signal.SIGTERM, logged(3), evaluation_s=20.0, patience_s=1.0)
    assert code == 75
    assert 1 <= seconds < 6
    assert newest_good(tmp_path / "run").step == 12
    assert finish(nursery, tmp_path) == undisturbed()
    assert "it begins behind the batches of epoch" in (tmp_path / "output").read_text()


def test_ctrl_c_saves_and_leaves(nursery, undisturbed, tmp_path):
    code, _ = interrupted(nursery, tmp_path, signal.SIGINT, logged(2), sleep=0.02, workers=1)
    assert code == 130
    assert "once more leaves at once without saving" in (tmp_path / "output").read_text()
    assert finish(nursery, tmp_path) == undisturbed()


def test_a_second_ctrl_c_leaves_at_once(nursery, undisturbed, tmp_path):
    """The body of the loop takes a minute, so that the first one finds no boundary."""
    config = {"folder": str(tmp_path / "run"), "out": str(tmp_path), "sleep": 60.0, "workers": 1}
    pid = nursery.start(config)
    output = tmp_path / "output"
    until(lambda: len(members(pid)) == 2)
    time.sleep(0.5)
    kill_group(pid, signal.SIGINT)
    until(lambda: "Ctrl-C" in output.read_text())
    assert members(pid)
    kill_group(pid, signal.SIGINT)
    began = time.monotonic()
    assert nursery.wait(pid) == 1
    assert time.monotonic() - began < 5
    assert "KeyboardInterrupt" in output.read_text()
    assert members(pid) == []
    assert finish(nursery, tmp_path) == undisturbed()


def test_a_run_whose_workers_outlive_it_can_be_resumed_at_once(nursery, undisturbed, tmp_path):
    """Only the main process is killed: its workers neither keep the lock nor stay."""
    config = {"folder": str(tmp_path / "run"), "out": str(tmp_path), "workers": 2, "slow": 0.05}
    pid = nursery.start(config)
    until(lambda: len(members(pid)) == 3)
    os.kill(pid, signal.SIGKILL)
    nursery.wait(pid)
    assert finish(nursery, tmp_path) == undisturbed()
    until(lambda: members(pid) == [])


def test_a_signal_between_micro_batches_waits_for_the_update_of_their_window(nursery, undisturbed, tmp_path):
    """Windows of five batches and a shorter one of two: gradients are under way most of the time."""
    settings = {"form": "prepared", "accumulate": 5}
    code, _ = interrupted(nursery, tmp_path, signal.SIGTERM, logged(1), sleep=0.03, save_every="1000 steps", **settings)
    assert code == 75, (tmp_path / "output").read_text()
    assert newest_good(tmp_path / "run").step is not None
    assert finish(nursery, tmp_path, **settings) == undisturbed(**settings)
