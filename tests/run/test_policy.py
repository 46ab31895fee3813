"""When to save and what to keep, in words."""

from __future__ import annotations

import math

import pytest

from rekindle.errors import ConfigError
from rekindle.run.policy import BestRule, SaveEvery, parse_best, parse_save_every


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200 steps", SaveEvery(steps=200)),
        ("1 step", SaveEvery(steps=1)),
        ("5 minutes", SaveEvery(seconds=300)),
        ("0.5 hours", SaveEvery(seconds=1800)),
        ("10 min", SaveEvery(seconds=600)),
        ("30s", SaveEvery(seconds=30)),
        ("epoch", SaveEvery(epochs=1)),
        ("2 epochs", SaveEvery(epochs=2)),
        (None, SaveEvery()),
    ],
)
def test_a_time_between_saves_is_a_number_with_a_unit(text, expected):
    assert parse_save_every(text) == expected


@pytest.mark.parametrize("text", ["", "often", "0 steps", "1.5 steps", "-3 minutes", "5 fortnights", 200])
def test_anything_else_is_refused_with_examples(text):
    with pytest.raises(ConfigError, match='save_every="200 steps", "5 minutes" or "1 epoch"'):
        parse_save_every(text)


def test_the_environment_goes_before_the_argument(monkeypatch):
    monkeypatch.setenv("REKINDLE_SAVE_EVERY", "3 steps")
    assert parse_save_every("5 minutes") == SaveEvery(steps=3)


def test_the_best_is_the_largest_unless_said_otherwise():
    assert parse_best("val_accuracy") == BestRule("val_accuracy", "max")
    assert parse_best("min:val_loss") == parse_best("val_loss", "min") == BestRule("val_loss", "min")
    assert parse_best(None) is None


@pytest.mark.parametrize(("text", "mode"), [("", None), ("least:x", None), ("x", "lowest"), ("min:x", "max")])
def test_a_rule_that_cannot_be_meant_is_refused(text, mode):
    with pytest.raises(ConfigError, match="is not a rule"):
        parse_best(text, mode)


def test_equal_is_no_improvement_and_nan_never_is():
    rule = BestRule("x", "min")
    assert rule.improves(1.0, None)
    assert rule.improves(0.5, 1.0)
    assert not rule.improves(1.0, 1.0)
    assert not rule.improves(math.nan, None)
    assert BestRule("x", "max").improves(2.0, 1.0)
