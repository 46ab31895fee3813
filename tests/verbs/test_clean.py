"""What may go from a run, and that nothing else goes."""

from __future__ import annotations

import os

import pytest
from runs_on_disk import add_snapshot, make_run

from rekindle.errors import ConfigError
from rekindle.store.layout import list_snapshots
from rekindle.store.lock import hold
from rekindle.verbs.clean import Rules, clean_run, plan_cleaning


def steps_of(run):
    return [listed.step for listed in list_snapshots(run)]


def spoil(run, step):
    file = run / "snapshots" / f"step-{step:08d}" / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))


def test_looking_deletes_nothing_and_deleting_does_what_was_shown(tmp_path):
    run = make_run(tmp_path / "run", steps=[1, 2, 3, 4, 5])
    (run / "snapshots" / ".tmp-6-abc").mkdir()
    (run / "snapshots" / ".trash-step-00000001-abc").mkdir()
    plan = plan_cleaning(run, Rules(keep_last=2))
    assert steps_of(run) == [5, 4, 3, 2, 1]
    assert [(os.path.basename(item.path), item.kind) for item in plan.items] == [
        (".tmp-6-abc", "leftover"),
        (".trash-step-00000001-abc", "leftover"),
        ("step-00000003", "old"),
        ("step-00000002", "old"),
        ("step-00000001", "old"),
    ]
    assert plan.keeps == ("step-00000005", "step-00000004")
    assert plan.size_bytes > 1500
    assert clean_run(run, Rules(keep_last=2)).items == plan.items
    assert sorted(os.listdir(run / "snapshots")) == ["step-00000004", "step-00000005"]
    assert plan_cleaning(run, Rules(keep_last=2)).items == ()


def test_without_a_rule_only_leftovers_go(tmp_path):
    run = make_run(tmp_path / "run", steps=[1, 2, 3])
    assert plan_cleaning(run, Rules()).items == ()


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (Rules(keep_last=1), [12, 10]),  # two that hold always stay
        (Rules(keep_last=2, keep_every=4), [12, 10, 8, 4]),
        (Rules(keep_last=2, keep_best="acc"), [12, 10, 6]),
        (Rules(keep_last=2, keep_best="min:loss"), [12, 10, 2]),
        (Rules(keep_last=9), [12, 10, 8, 6, 4, 2]),
    ],
)
def test_the_rules_say_what_stays(tmp_path, rules, left):
    run = make_run(tmp_path / "run", steps=[2, 4, 6, 8, 10, 12])
    lines = [f'{{"step": {step}, "acc": {0.9 if step == 6 else 0.1}, "loss": {step}}}' for step in (1, 2, 6, 12)]
    (run / "metrics.jsonl").write_text("\n".join([*lines, "torn"]))
    clean_run(run, rules)
    assert steps_of(run) == left


def test_the_best_by_the_runs_own_rule_and_the_newest_without_nan_stay(tmp_path):
    run = make_run(tmp_path / "run", steps=[1, 2, 3], best=(0.9, 1))
    for step in (4, 5, 6):
        add_snapshot(run, step, best=(0.9, 1), facts={"finite_step": 3})
    clean_run(run, Rules(keep_last=2))
    assert steps_of(run) == [6, 5, 3, 1]


def test_what_does_not_hold_never_counts_as_one_that_stays(tmp_path):
    """The two newest have a flipped byte, which sizes do not show: the older ones are all there is."""
    run = make_run(tmp_path / "run", steps=[1, 2, 3, 4])
    spoil(run, 4)
    spoil(run, 3)
    clean_run(run, Rules(keep_last=1))
    assert steps_of(run) == [4, 3, 2, 1]
    clean_run(run, Rules(keep_last=1, damaged=True))
    assert steps_of(run) == [2, 1]


def test_damaged_ones_stay_where_fewer_than_two_hold(tmp_path):
    run = make_run(tmp_path / "run", steps=[1, 2])
    spoil(run, 2)
    assert plan_cleaning(run, Rules(keep_last=1, damaged=True)).items == ()


def test_a_run_that_somebody_writes_is_left_alone(tmp_path):
    run = make_run(tmp_path / "run", steps=[1, 2, 3])
    (run / "snapshots" / ".tmp-4-abc").mkdir()  # which is being written
    with hold(run):
        for plan in (plan_cleaning(run, Rules(keep_last=1)), clean_run(run, Rules(keep_last=1))):
            assert plan.items == ()
            assert f"process {os.getpid()}" in plan.locked
    assert steps_of(run) == [3, 2, 1]
    assert (run / "snapshots" / ".tmp-4-abc").exists()


def test_a_metric_that_was_never_logged_is_refused_with_near_ones(tmp_path):
    run = make_run(tmp_path / "run", steps=[1, 2, 3])
    (run / "metrics.jsonl").write_text('{"step": 1, "val_accuracy": 0.5}\n')
    with pytest.raises(ConfigError, match="no val_acuracy was logged") as caught:
        clean_run(run, Rules(keep_last=1, keep_best="val_acuracy"))
    assert caught.value.why == "nearest: val_accuracy"
    assert steps_of(run) == [3, 2, 1]
    with pytest.raises(ConfigError, match="--keep-last 0"):
        plan_cleaning(run, Rules(keep_last=0))
