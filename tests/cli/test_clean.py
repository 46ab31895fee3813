"""The command `rekindle clean`: it shows first, deletes only with --yes, and leaves alone what is in use."""

from __future__ import annotations

import json

from runs_on_disk import make_run

from rekindle.store.layout import list_snapshots
from rekindle.store.lock import hold


def test_it_shows_and_then_deletes(cli, tmp_path):
    run = make_run(tmp_path / "run", steps=[1, 2, 3])
    done = cli("clean", "run", "--keep-last", "2")
    assert done.returncode == 0, done.stderr
    first, old = done.stdout.splitlines()
    assert first.startswith("run  would delete ")
    assert first.endswith("; 2 snapshots stay")
    assert old.startswith("  old       snapshots/step-00000001  ")
    assert old.endswith("superseded by newer ones")
    assert done.stderr == "delete with: rekindle clean run --keep-last 2 --yes\n"
    assert len(list_snapshots(run)) == 3
    done = cli("clean", "run", "--keep-last", "2", "--yes")
    assert done.stdout.startswith("run  deleted ")
    assert [listed.step for listed in list_snapshots(run)] == [3, 2]
    assert cli("clean", "run", "--keep-last", "2").stdout == "run  nothing to delete\n"


def test_without_a_folder_it_looks_at_runs_and_changes_nothing(cli, tmp_path):
    run = make_run(tmp_path / "runs" / "small", steps=[1, 2, 3])
    done = cli("clean", "--keep-last", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runs/small  would delete ")
    assert done.stderr == "delete with: rekindle clean --keep-last 2 --yes\n"
    assert len(list_snapshots(run)) == 3


def test_a_run_in_use_is_left_alone_and_the_others_are_cleaned(cli, tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name, steps=[1, 2, 3])
    with hold(tmp_path / "runs" / "a"):
        done = cli("clean", "runs", "--keep-last", "2", "--yes", "--json")
    assert done.returncode == 1
    first, second = json.loads(done.stdout)["runs"]
    assert "process " in first["locked"]
    assert [len(plan["items"]) for plan in (first, second)] == [0, 1]
    assert len(list_snapshots(tmp_path / "runs" / "a")) == 3


def test_a_rule_without_keep_last_is_exit_code_2(cli, tmp_path):
    make_run(tmp_path / "run", steps=[1, 2, 3])
    done = cli("clean", "run", "--keep-every", "2")
    assert done.returncode == 2
    assert "need --keep-last" in done.stderr


def test_a_folder_of_something_else_is_exit_code_2(cli, tmp_path):
    (tmp_path / "photos").mkdir()
    done = cli("clean", "photos", "--yes")
    assert done.returncode == 2
    assert "no run of rekindle's in it" in done.stderr
