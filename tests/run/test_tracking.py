"""What is tracked: by which name, restored into itself, and named where it is missing."""

from __future__ import annotations

import pytest
from small_lives import metrics, objects, train
from torch import nn

import rekindle as rk
from rekindle.errors import StateMismatch


def test_what_is_missing_on_either_side_is_named(start, tmp_path):
    train(start())
    before = metrics(tmp_path, "run")
    run = start()
    run.track(model=objects()["model"])
    with pytest.raises(StateMismatch, match=r"optimizer, scheduler: in the snapshot of step 18, and not tracked now"):
        run.epochs(9)
    run = start()
    with pytest.raises(StateMismatch, match="average: tracked now, and not in the snapshot"):
        run.track(average=nn.Linear(1, 1))
    run = start()
    with pytest.raises(StateMismatch):
        run.track(model=nn.Linear(3, 5))
    assert metrics(tmp_path, "run") == before


def test_what_has_no_state_cannot_be_tracked(start):
    run = start()
    with pytest.raises(TypeError, match=r"plain values go into run\.state\['best'\]"):
        run.track(best=0.5)
    run.track(model=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="another object is tracked under this name"):
        run.track(model=nn.Linear(1, 1))


def test_a_longer_schedule_is_said(start, capsys):
    train(start())
    run = start()
    tracked = objects()
    tracked["scheduler"] = rk.schedule(tracked["optimizer"], "cosine", total=200)
    run.track(**tracked)
    assert "the schedule was cosine over 100 updates and is cosine over 200 updates" in capsys.readouterr().err
