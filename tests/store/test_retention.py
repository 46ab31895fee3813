"""Deleting old snapshots, never one that a run would need."""

from __future__ import annotations

import os

import pytest

from rekindle.store.commit import commit
from rekindle.store.layout import list_snapshots
from rekindle.store.lock import hold
from rekindle.store.retention import Pruned, prune


@pytest.fixture
def run(tmp_path):
    with hold(tmp_path / "run") as lock:
        for step in (100, 200, 300, 400, 500):
            commit(lock, step, {"a.bin": lambda out: out.write(b"x")}, {})
        yield lock


def steps(run):
    return [listed.step for listed in list_snapshots(run.path)]


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"keep_last": None}, [500, 400, 300, 200, 100]),
        ({"keep_last": 3}, [500, 400, 300]),
        ({"keep_last": 1}, [500, 400]),  # the newest, and one to fall back on
        ({"keep_last": 9}, [500, 400, 300, 200, 100]),
        ({"keep_last": 2, "keep_every": 200}, [500, 400, 200]),
        ({"keep_last": 2, "keep_steps": {100}}, [500, 400, 100]),
    ],
)
def test_the_rules(run, rules, left):
    pruned = prune(run, **rules)
    assert steps(run) == left
    assert pruned == Pruned(tuple(step for step in (500, 400, 300, 200, 100) if step not in left))
    assert [name for name in os.listdir(os.path.join(run.path, "snapshots")) if name.startswith(".")] == []


def test_a_damaged_one_does_not_count_as_kept(run):
    os.unlink(os.path.join(run.path, "snapshots", "step-00000500", "a.bin"))
    prune(run, keep_last=2)
    assert steps(run) == [500, 400, 300]


def test_nothing_is_deleted_while_too_few_hold(run):
    for step in (500, 400, 300, 200):
        os.unlink(os.path.join(run.path, "snapshots", f"step-00000{step}", "a.bin"))
    assert prune(run, keep_last=2) == Pruned(())
    assert steps(run) == [500, 400, 300, 200, 100]


@pytest.mark.parametrize("rules", [{"keep_last": 0}, {"keep_last": 3, "keep_every": 0}])
def test_rules_that_cannot_be_meant_are_refused(run, rules):
    with pytest.raises(ValueError, match="is at least 1"):
        prune(run, **rules)
