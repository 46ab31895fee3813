"""Two courses, written by hand, and where they part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rekindle.run.evidence import Life, read_life
from rekindle.run.first_difference import first_difference, left_behind, suspects_at_step
from rekindle.run.verdict import KilledLife, Proof, as_json


def life(tmp_path: Path, *events: dict) -> Life:
    """Write events as a recorder does, and read them back."""
    path = tmp_path / "evidence"
    lines = [{"event": "life", "pid": 1}, *events]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_life(str(path))


def batch(position: int, *, order="o", sample="s", generator="g", state=None, names=None) -> dict:
    return {
        "event": "batch",
        "epoch": 0,
        "loop": "0",
        "position": position,
        "order": f"{order}{position}",
        "sample": {"[0]": f"{sample}{position}"},
        "generators": {"torch": f"{generator}{position}"},
        "state": state or state_after(position),
        "names": names or {},
    }


def state_after(number: int, weight="w", momentum="m", mean="b", lr="0.1") -> dict:
    return {
        "optimizer: state": {"momentum": f"{momentum}{number}"},
        "model: parameters": {"fc.weight": f"{weight}{number}"},
        "model: buffers": {"mean": f"{mean}{number}"},
        "optimizer: settings": {"lr": lr},
    }


def step(number: int, *, gradient="d", lr="0.1", weight="w", names=None, **parts) -> dict:
    state = state_after(number, weight=weight, lr=lr, **parts)
    update = {"optimizer": {"gradients": {"model.fc.weight": f"{gradient}{number}"}, "settings": {"lr": lr}}}
    return {"event": "step", "step": number, "epoch": 0, "update": update, "state": state, "names": names or {}}


def straight_through(tmp_path: Path, steps: int = 6) -> Life:
    events = []
    for number in range(steps):
        events += [
            batch(number, names={"COUNTER in train.py": str(number), "began in train.py": "100.5"}),
            step(number + 1, names={"COUNTER in train.py": str(number + 1)}),
        ]
    return life(tmp_path, *events)


def killed(tmp_path: Path, *second: dict, first_life_names=None) -> list[Life]:
    """A life killed after step 4, then one that goes on from step 2 with these events."""
    events = []
    for number in range(4):
        names = {"COUNTER in train.py": str(number), "began in train.py": "200.5", **(first_life_names or {})}
        events += [batch(number, names=names), step(number + 1, names={"COUNTER in train.py": str(number + 1)})]
    return [life(tmp_path, *events), life(tmp_path, *second)]


ALL_EQUAL = ("the order of samples", "the samples", "the generators", "all tracked state before that step")


def test_lives_that_repeat_the_course_do_not_differ(tmp_path):
    lives = killed(tmp_path, batch(2), step(3), batch(3), step(4), batch(4), step(5), batch(5), step(6))
    assert first_difference(straight_through(tmp_path), lives) is None


def test_a_global_counter_outside_the_state_is_named(tmp_path):
    names = {"COUNTER in train.py": "0", "began in train.py": "300.5"}
    lives = killed(tmp_path, batch(2, names=names), step(3, gradient="x", weight="x"))
    found = first_difference(straight_through(tmp_path), lives)
    assert (found.aspect, found.step, found.epoch, found.batch) == ("gradients", 3, 0, 2)
    assert (found.life, found.resumed_from, found.first_of_life) == (2, 2, True)
    assert found.equal == ALL_EQUAL
    assert found.details == (("model.fc.weight", "d3", "x3"),)
    (suspect,) = found.suspects
    assert (suspect.name, suspect.place, suspect.straight, suspect.killed) == ("COUNTER", "train.py", "2", "0")


def test_gradients_left_by_the_step_before_are_the_cause_before_any_name(tmp_path):
    def leaving(number, names):
        event = step(number, gradient="sum", names=names)
        event["update"]["optimizer"]["left"] = {"judge.weight": "1", "judge.bias": "2"}
        return event

    events = [
        one for number in range(4) for one in (batch(number), leaving(number + 1, {"x in train.py": str(number)}))
    ]
    alone = [batch(2), step(3, gradient="alone"), batch(3), step(4, gradient="alone")]
    found = first_difference(life(tmp_path, *events), [life(tmp_path, *events), life(tmp_path, *alone)])
    assert (found.aspect, found.step, found.resumed_from) == ("gradients", 3, 2)
    assert found.left == ("judge.bias", "judge.weight")
    proof = Proof(("train",), 4, 1.0, (KilledLife("finished", "", 2, 4, 0, 1.0),), 2, (), 1, 1, 1, first=found)
    words = as_json(proof)["first"]
    assert words["so"] == "it added to gradients that the step before had left in `judge`; no snapshot holds gradients"
    assert list(words["do"]) == [
        "clear them before backward(): optimizer.zero_grad()",
        "or have no other loss leave any there: requires_grad_(False) on `judge` while it goes backward",
    ]


def test_a_clock_that_differs_between_two_fresh_lives_is_no_suspect(tmp_path):
    names = {"began in train.py": "300.5"}
    lives = killed(tmp_path, batch(2, names=names), step(3, gradient="x"))
    assert first_difference(straight_through(tmp_path), lives).suspects == ()
    # Without a life that began from nothing there is no way to tell.
    assert first_difference(straight_through(tmp_path), lives[1:]).suspects != ()


def test_a_name_that_differed_beside_equal_steps_is_a_lesser_suspect(tmp_path):
    straight = life(
        tmp_path,
        *(batch(0, names={"a in t.py": "1", "b.cc in t.py": "1"}), step(1)),
        *(batch(1, names={}), step(2)),
    )
    resumed = [
        life(tmp_path, batch(-1), step(0), batch(0, names={"a in t.py": "2", "b.cc in t.py": "1"}), step(1)),
        life(tmp_path, batch(1, names={"a in t.py": "2", "b.cc in t.py": "2"}), step(2, gradient="x")),
    ]
    # the first of these lives went on from step -1: it did not begin from nothing
    found = first_difference(straight, resumed)
    assert [suspect.name for suspect in found.suspects] == ["b.cc", "a"]


@pytest.mark.parametrize(
    ("events", "aspect", "what", "equal"),
    [
        ([batch(2, order="x"), step(3)], "order", ("",), ()),
        ([batch(2, sample="x"), step(3, gradient="x")], "sample", ("",), ALL_EQUAL[:1]),
        ([batch(2, generator="x"), step(3)], "generator", ("",), ALL_EQUAL[:2]),
        (
            [batch(2, state=state_after(2, mean="x", momentum="x")), step(3, mean="x", momentum="x")],
            "state before",
            ("model: buffers", "optimizer: state"),
            ALL_EQUAL[:3],
        ),
        ([batch(2), step(3, gradient="x", weight="x")], "gradients", ("optimizer: gradients",), ALL_EQUAL),
        ([batch(2), step(3, lr="0.2")], "settings", ("optimizer: settings",), (*ALL_EQUAL, "the gradients")),
        (
            [batch(2), step(3, weight="x", momentum="x")],
            "state after",
            ("model: parameters",),
            (*ALL_EQUAL, "the gradients", "the optimizer's settings"),
        ),
        (
            [batch(2), step(3, mean="x", momentum="x")],
            "state after",
            ("model: buffers",),
            (*ALL_EQUAL, "the gradients", "the optimizer's settings", "parameters of `model` after the step"),
        ),
        ([batch(3), step(3)], "batch", ("",), ()),
    ],
    ids=["order", "sample", "generator", "before", "gradients", "settings", "parameters", "buffers", "other-batch"],
)
def test_the_first_cause_is_found_first(tmp_path, events, aspect, what, equal):
    found = first_difference(straight_through(tmp_path), killed(tmp_path, *events))
    assert (found.aspect, found.step) == (aspect, 3)
    assert set(found.what) == set(what)
    assert found.equal == equal


def test_what_a_later_life_did_again_is_what_counts(tmp_path):
    wrong_and_lost = life(tmp_path, batch(2), step(3, weight="x"))
    right = life(tmp_path, batch(2), step(3), batch(3), step(4), batch(4), step(5), batch(5), step(6))
    lives = killed(tmp_path)[:1]
    assert first_difference(straight_through(tmp_path), [*lives, wrong_and_lost, right]) is None
    assert first_difference(straight_through(tmp_path), [*lives, right, wrong_and_lost]).life == 3


def test_two_lives_from_nothing_that_differ_are_told_apart_from_a_bad_resume(tmp_path):
    lives = [life(tmp_path, batch(0), step(1, gradient="x"))]
    found = first_difference(straight_through(tmp_path), lives)
    assert (found.step, found.life, found.resumed_from) == (1, 1, 0)


def test_an_untracked_object_that_moved_on_is_left_behind(tmp_path):
    straight = life(tmp_path, batch(0), step(1, names={"ema in t.py": "AveragedModel #11111111", "n in t.py": "1"}))
    resumed = [life(tmp_path, batch(0), step(1, names={"ema in t.py": "AveragedModel #22222222", "n in t.py": "2"}))]
    # a life that began from nothing: then both names wander, and neither is reported
    assert left_behind(straight, resumed) == ()
    later = [
        life(
            tmp_path, batch(-1), step(0), batch(0), step(1, names={"ema in t.py": "AveragedModel #2", "n in t.py": "2"})
        )
    ]
    assert [suspect.name for suspect in left_behind(straight, later)] == ["ema"]
    assert {suspect.name for suspect in suspects_at_step(straight, later, 5)} == {"ema", "n"}
