"""The power goes at every moment: whatever the disk may hold then, no promised save is lost, no wrong data taken."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from dataclasses import dataclass, field
from unittest import mock

import crash_savers
import crash_store_job as job
import pytest
from crash_power import MODELS, Disk, lay_out

import crash
from crash import Call, Plan
from rekindle.store import find
from rekindle.store.find import newest_good
from rekindle.store.layout import list_snapshots
from rekindle.store.manifest import verify

LAST = 3


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """The cuts are rebuilt from the record; the record needs no disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@dataclass
class Trial:
    """What came of all states of one saver."""

    states: int = 0
    problems: list[str] = field(default_factory=list)


def record(folder, saver, last=LAST):
    """The calls of a life under a saver, with its promises among them."""
    folder.mkdir()
    with crash.wrapped(Plan(str(folder), keep_data=True)) as plan:

        def promise(step):
            plan.calls.append(Call("promise", str(step)))

        with mock.patch.object(crash, "promise", promise):
            job.live(str(folder / "run"), last, saver, promise)
    return plan.calls


def problem_in(folder, promised, *, all_must_hold):
    found = newest_good(folder / "run")
    if all_must_hold:
        damages = [(listed.name, verify(listed.path)) for listed in list_snapshots(folder / "run")]
        damages = [damage for damage in damages if damage[1] is not None]
        if damages:
            return f"what has a snapshot's name is whole or was never there, but {damages}"
    if (found.step or 0) < promised:
        return f"step {promised} was promised, {found.step} is the newest that holds: {found.passed_over}"
    return None if found.snapshot is None else job.problem_with(found.snapshot)


def try_all_states(tmp_path, saver, *, model="weak", recover_every=0, until=None, all_must_hold=False, last=LAST):
    """Cut the power after every call, look at every legal state once, and judge it; stop at a problem with `until`."""
    rng = random.Random(1)
    calls = record(tmp_path / "recorded", saver, last)
    disk = Disk(str(tmp_path / "recorded"), model)
    trial = Trial()
    promised, seen = 0, set()
    where = tmp_path / "state"
    for call in calls:
        if call.name == "promise":
            promised = int(call.path)
        else:
            disk.follow(call)
        for state in disk.states(rng):
            key = (promised, hashlib.sha256(repr(sorted(state.items())).encode()).digest())
            if key in seen:
                continue
            seen.add(key)
            trial.states += 1
            lay_out(state, where)
            problem = problem_in(where, promised, all_must_hold=all_must_hold)
            if problem:
                trial.problems.append(problem)
            elif recover_every and trial.states % recover_every == 0:
                job.live(str(where / "run"), last + 1, promise=lambda _: None)
                assert newest_good(where / "run").step == last + 1
            shutil.rmtree(where)
            if problem and until is not None and until in problem:
                return trial
    return trial


def test_the_record_rebuilds_the_folder_that_was_written(tmp_path):
    """The judge's own eyes: with everything synced, the rebuilt disk is the real one, byte for byte."""
    calls = record(tmp_path / "recorded", job.right)
    disk = Disk(str(tmp_path / "recorded"))
    for call in calls:
        if call.name != "promise":
            disk.follow(call)
    for node in disk.nodes():
        node.sync()
    lay_out(next(iter(disk.states(random.Random(0), 0))), tmp_path / "rebuilt")
    real = {p.relative_to(tmp_path / "recorded"): p for p in (tmp_path / "recorded").rglob("*")}
    rebuilt = {p.relative_to(tmp_path / "rebuilt"): p for p in (tmp_path / "rebuilt").rglob("*")}
    assert real.keys() == rebuilt.keys()
    for name, path in real.items():
        assert path.is_dir() or path.read_bytes() == rebuilt[name].read_bytes(), name


@pytest.mark.parametrize(("model", "states"), [("weak", 200), ("journal", 100), ("ext4", 100)])
def test_no_power_cut_loses_a_promised_save_and_the_next_life_goes_on(tmp_path, model, states):
    trial = try_all_states(tmp_path, job.right, model=model, recover_every=7, all_must_hold=True)
    assert trial.problems == []
    assert trial.states > states


@pytest.mark.parametrize("model", MODELS)
def test_no_power_cut_loses_a_file_that_is_a_link_to_the_snapshot_before(tmp_path, model):
    assert [call.name for call in record(tmp_path / "look", job.linking)].count("link") == LAST - 1
    trial = try_all_states(tmp_path, job.linking, model=model, recover_every=11, all_must_hold=True)
    assert trial.problems == []


@pytest.mark.parametrize("model", MODELS)
def test_no_power_cut_loses_a_step_that_is_being_replaced(tmp_path, model):
    assert any(call.name == "exchange" for call in record(tmp_path / "look", crash_savers.saved_and_replaced, 1))
    assert try_all_states(tmp_path, crash_savers.saved_and_replaced, model=model, all_must_hold=True).problems == []


# Where names reach the disk in order, this mistake costs nothing.
ORDER_FORGIVES = {"without_fsync_of_the_new_folder"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "saver",
    [
        "without_file_fsync",
        "without_folder_fsync",
        "without_fsync_of_the_new_folder",
        "without_fsync_of_the_parent",
        "manifest_first",
        "old_one_deleted_first",
        "in_place",
        "promised_too_early",
    ],
)
def test_the_judge_convicts_a_wrong_saver(tmp_path, saver, model):
    trial = try_all_states(tmp_path, getattr(crash_savers, saver), model=model, until="")
    if model != "weak" and saver in ORDER_FORGIVES:
        assert not trial.problems
    else:
        assert trial.problems, f"{saver} got away with {trial.states} states"


def test_the_ext4_model_forgives_a_rename_over_a_file_and_the_others_do_not(tmp_path):
    """What ext4 does for programs that replace a file without fsync: the models differ where the file systems do."""
    calls = [Call("open", "a", data=b""), Call("write", "a", data=b"old"), Call("fsync", "a")]
    calls += [Call("open", "b"), Call("write", "b", data=b"new"), Call("rename", "b", "a")]
    seen = {}
    for model in MODELS:
        disk = Disk(str(tmp_path), model)
        for call in calls:
            disk.follow(Call(call.name, str(tmp_path / call.path), str(tmp_path / call.other), call.data))
        seen[model] = {state["a"] for state in disk.states(random.Random(0)) if "a" in state}
    assert seen["ext4"] == {b"old", b"new"}
    assert seen["journal"] == seen["weak"] == {b"old", b"new", b"", b"n", b"\0\0\0"}


def test_a_reader_that_trusts_sizes_takes_wrong_data_where_bytes_were_not_synced(tmp_path):
    """Why a resume compares digests: with sizes alone, zeros at full length pass for a snapshot."""
    with mock.patch.object(find, "verify", lambda path, **_: verify(path, digests=False)):
        trial = try_all_states(tmp_path, crash_savers.without_file_fsync, until="wrong bytes")
    assert any("wrong bytes" in problem for problem in trial.problems)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("saver", ["right", "linking"])
def test_no_power_cut_in_a_longer_run_loses_a_promised_save(tmp_path, monkeypatch, saver, model):
    """More steps, so that pruning and linking chains are cut as well, and many more mixtures of what was not synced."""
    monkeypatch.setattr(Disk, "states", lambda self, rng, real=Disk.states: real(self, rng, 60))
    trial = try_all_states(tmp_path, getattr(job, saver), model=model, recover_every=3, all_must_hold=True, last=6)
    assert trial.problems == []
    assert trial.states > 150
