"""A run is killed at every file call it makes, before, in and after it: no promised save is ever lost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import crash_savers
import crash_store_job as job
import pytest

import crash
from crash import Plan
from rekindle.store.find import newest_good
from rekindle.store.layout import snapshots_path

SCRIPT = str(Path(job.__file__))
LAST = 4  # create the run, save four times, prune twice


def judge(folder, promises):
    """What a new process finds after a death; None when nothing was lost."""
    found = newest_good(folder)
    promised = max(map(int, promises), default=0)
    if (found.step or 0) < promised:
        return f"step {promised} was promised, {found.step} is the newest that holds"
    if found.nothing_holds:
        return f"nothing holds: {found.passed_over}"
    if found.snapshot is not None:
        return job.problem_with(found.snapshot)
    return None


def calls_of_a_life(folder, last=LAST, saver=job.right):
    """The file calls of an undisturbed life, recorded in this process."""
    folder.mkdir()
    with crash.wrapped(Plan(str(folder))) as plan, mock.patch.object(crash, "promise"):
        job.live(str(folder / "run"), last, saver, promise=lambda _: None)
    return plan.calls


def plans(folder, calls):
    for nth, call in enumerate(calls, start=1):
        yield Plan(str(folder), nth, "before")
        if call.name == "write":
            yield Plan(str(folder), nth, "torn")
    yield Plan(str(folder), len(calls), "after")


def die(tmp_path, plan, saver="right", last=LAST):
    """One life that follows the plan in a fresh folder; what it promised."""
    run = tmp_path / "case" / "run"
    if run.parent.exists():
        shutil.rmtree(run.parent)
    run.parent.mkdir()
    argv = [SCRIPT, str(run), str(last)] + ([] if saver == "right" else [saver])
    life = crash.live(argv, Plan(str(run.parent), plan.nth, plan.mode))
    return run, life


def test_every_call_is_wrapped_in_every_place(tmp_path):
    names = [call.name for call in calls_of_a_life(tmp_path / "count")]
    assert {"open", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir"} <= set(names)
    assert names.count("rename") == 1 + 4 + 2  # run.json, four saves, two prunes
    assert len(names) >= 90


def test_killed_at_every_file_call_nothing_promised_is_lost_and_the_next_life_ends_the_run(tmp_path):
    calls = calls_of_a_life(tmp_path / "count")
    kills = 0
    for plan in plans(tmp_path, calls):
        run, life = die(tmp_path, plan)
        assert life.killed, life.errors
        kills += 1
        assert judge(str(run), life.promises) is None, f"killed {plan.mode} call {plan.nth}: {calls[plan.nth - 1]}"
        job.live(str(run), LAST, promise=lambda _: None)  # another process: this one
        assert newest_good(str(run)).step == LAST
        litter = [name for name in os.listdir(snapshots_path(run)) if name.startswith(".")]
        assert litter == [], f"killed {plan.mode} call {plan.nth}: {litter} is left"
        assert sorted(os.listdir(snapshots_path(run))) == ["step-00000003", "step-00000004"]
    assert kills > 100


def test_killed_while_a_step_is_replaced_one_of_the_two_is_always_there(tmp_path):
    calls = calls_of_a_life(tmp_path / "count", 2, crash_savers.saved_and_replaced)
    exchanges = [nth for nth, call in enumerate(calls, start=1) if call.name == "exchange"]
    assert len(exchanges) == 2
    for plan in plans(tmp_path, calls):
        if plan.nth >= exchanges[0] - 18:
            run, life = die(tmp_path, plan, "saved_and_replaced", last=2)
            assert life.killed, life.errors
            assert judge(str(run), life.promises) is None, f"killed {plan.mode} call {plan.nth}: {calls[plan.nth - 1]}"


def test_killed_while_a_file_is_linked_nothing_promised_is_lost(tmp_path):
    """The third save of a run whose frozen file has one more name with each."""
    calls = calls_of_a_life(tmp_path / "count", 3, job.linking)
    links = [nth for nth, call in enumerate(calls, start=1) if call.name == "link"]
    assert len(links) == 2
    for plan in plans(tmp_path, calls):
        if abs(plan.nth - links[1]) <= 4:
            run, life = die(tmp_path, plan, "linking", last=3)
            assert life.killed, life.errors
            assert judge(str(run), life.promises) is None, f"killed {plan.mode} call {plan.nth}: {calls[plan.nth - 1]}"
            job.live(str(run), 4, job.linking, promise=lambda _: None)
            assert newest_good(str(run)).step == 4


def test_the_lives_that_follow_may_be_killed_as_well(tmp_path):
    rng = random.Random(7)
    count = len(calls_of_a_life(tmp_path / "count"))
    for _ in range(25):
        run, life = die(tmp_path, Plan("", rng.randrange(1, count), rng.choice(["before", "after", "torn"])))
        promises = life.promises
        for _ in range(2):
            plan = Plan(str(run.parent), rng.randrange(1, count), rng.choice(["before", "after", "torn"]))
            promises += crash.live([SCRIPT, str(run), str(LAST)], plan).promises
            assert judge(str(run), promises) is None
        job.live(str(run), LAST, promise=lambda _: None)
        assert newest_good(str(run)).step == LAST


@pytest.mark.parametrize("saver", ["old_one_deleted_first", "in_place", "promised_too_early", "manifest_first"])
def test_the_judge_convicts_a_wrong_saver(tmp_path, saver):
    """The same kills, the same judge: each of these must be caught losing something."""
    problems = []
    for nth in range(20, 140):
        run, life = die(tmp_path, Plan("", nth, "before"), saver)
        if not life.killed:
            break
        problem = judge(str(run), life.promises)
        if problem:
            problems.append(problem)
            break
    assert problems, f"{saver} got away with it"


HOLDER = """
import sys, time
from rekindle.store.lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_the_first_one_is_and_takes_over_when_it_is_killed(tmp_path):
    from rekindle.errors import RunLocked
    from rekindle.store.lock import hold

    run = str(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLDER, run], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match="another process writes this run") as caught:
            hold(run)
        assert f"process {first.pid} on {os.uname().nodename}" in caught.value.why
        second = crash.live([SCRIPT, run, "2"])
        assert second.code == 1
        assert "RunLocked" in second.errors
        first.kill()
    hold(run).release()


FORKER = """
import os, sys, time
from rekindle.store.lock import hold
lock = hold(sys.argv[1])
if os.fork() == 0:
    print(f"{os.getpid()} {lock.held}", flush=True)
    time.sleep(60)
os.kill(os.getpid(), 9)
"""


def test_a_forked_worker_that_outlives_a_killed_run_does_not_keep_the_next_one_out(tmp_path):
    from rekindle.store.lock import hold

    run = str(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", FORKER, run], stdout=subprocess.PIPE, text=True) as parent:
        worker, held = parent.stdout.readline().split()
        parent.wait()
        try:
            assert held == "False"
            hold(run).release()
        finally:
            os.kill(int(worker), 9)
