"""What lies in a folder of runs: seen without torch, without locks, and without changing anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from runs_on_disk import add_snapshot, make_run

from rekindle.store.lock import hold
from rekindle.verbs.runs import find_runs, in_use, summarise_run


def everything_below(path):
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            with open(file, "rb") as stream:
                found[file] = (stream.read(), os.stat(file).st_mtime_ns)
    return found


def test_runs_are_found_at_any_depth_and_not_inside_of_runs(tmp_path):
    for name in ("b", "a/x", "a/y/z"):
        make_run(tmp_path / name, steps=[1])
    (tmp_path / "notes").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    assert find_runs(tmp_path) == [str(tmp_path / name) for name in ("a/x", "a/y/z", "b")]
    assert find_runs(tmp_path / "b") == [str(tmp_path / "b")]
    assert find_runs(tmp_path / "notes") == []
    with pytest.raises(FileNotFoundError):
        find_runs(tmp_path / "nothing")


def test_a_run_is_summarised_and_nothing_is_changed(tmp_path):
    run = make_run(tmp_path / "run", steps=[4, 8, 12], best=(0.9, 8), finished=True, keep_best="acc")
    (run / "metrics.jsonl").write_text('{"step": 8, "acc": 0.9}\n{"step": 12, "acc": 0.5}\n{"step": 13, "ac')
    before = everything_below(tmp_path)
    one = summarise_run(run)
    assert everything_below(tmp_path) == before
    assert [snapshot.step for snapshot in one.snapshots] == [12, 8, 4]
    assert one.newest.name == "step-00000012"
    assert (one.newest.finished, one.newest.finite, one.newest.epoch) == (True, True, 12)
    assert one.best == (0.9, 8)
    assert one.best_rule == "acc"
    assert one.metrics == {"step": 12, "acc": 0.5}  # the last whole line
    assert one.command == ("python", "train.py")
    assert (one.leftovers, one.fault, one.in_use) == ((), "", False)


def test_damage_is_seen_by_size_and_with_deep_by_digest(tmp_path):
    run = make_run(tmp_path / "run", steps=[1, 2, 3])
    file = run / "snapshots" / "step-00000003" / "model.safetensors"
    file.write_bytes(b"y" * file.stat().st_size)
    with (run / "snapshots" / "step-00000002" / "model.safetensors").open("ab") as other:
        other.write(b"more")
    (run / "snapshots" / "step-00000001" / "manifest.json").unlink()
    assert [bool(snapshot.damage) for snapshot in summarise_run(run).snapshots] == [False, True, True]
    one = summarise_run(run, deep=True)
    assert [bool(snapshot.damage) for snapshot in one.snapshots] == [True, True, True]
    assert one.newest is None
    assert "manifest.json is missing" in one.snapshots[2].damage


def test_a_damaged_run_json_is_said_and_the_snapshots_are_listed(tmp_path):
    run = make_run(tmp_path / "run", steps=[1])
    (run / "run.json").write_text('{"format": "rekindle-run", "comm')
    one = summarise_run(run)
    assert "is damaged" in one.fault
    assert len(one.snapshots) == 1


def test_leftovers_are_named(tmp_path):
    run = make_run(tmp_path / "run", steps=[1])
    (run / "snapshots" / ".tmp-2-abc").mkdir()
    (run / ".run.json.tmp-abc").write_text("")
    assert summarise_run(run).leftovers == (".run.json.tmp-abc", "snapshots/.tmp-2-abc")


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="the kernel's list of locks is Linux's")
def test_a_run_that_another_process_writes_is_in_use_and_is_not_disturbed(tmp_path):
    run = make_run(tmp_path / "run", steps=[1])
    assert in_use(str(run)) is False
    code = (
        "import sys; from rekindle.store.lock import hold\n"
        "lock = hold(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        one = summarise_run(run)
        assert one.in_use is True
        assert one.holder.startswith(f"process {other.pid} on ")
    finally:
        other.communicate()
    assert in_use(str(run)) is False
    hold(run).release()


def test_a_lock_that_was_taken_on_another_machine_cannot_be_judged_from_here(tmp_path):
    run = make_run(tmp_path / "run", steps=[1])
    (run / "LOCK").write_text(json.dumps({"pid": 1, "host": "elsewhere", "boot": None, "job": "12"}))
    one = summarise_run(run)
    assert one.in_use is None
    assert one.holder == "process 1 on elsewhere (job 12)"


def test_a_file_with_two_names_counts_once(tmp_path):
    run = make_run(tmp_path / "run", steps=[1])
    before = summarise_run(run).size_bytes
    os.link(run / "snapshots" / "step-00000001" / "model.safetensors", run / "second-name")
    assert summarise_run(run).size_bytes == before


def test_a_run_with_nothing_saved_yet(tmp_path):
    run = make_run(tmp_path / "run", steps=[])
    one = summarise_run(run)
    assert (one.snapshots, one.newest, one.best, one.metrics) == ((), None, None, {})


def test_a_snapshot_with_nan_is_told_from_the_others(tmp_path):
    run = make_run(tmp_path / "run", steps=[1])
    add_snapshot(run, 2, facts={"finite_step": 1})
    assert [snapshot.finite for snapshot in summarise_run(run).snapshots] == [False, True]
