"""What a run logs: never a line twice, learning rates with it, and a word about what is not finite."""

from __future__ import annotations

import json
import os

import pytest
import torch
from small_lives import DATA, Killed, in_lives, metrics
from torch import nn


def test_lines_before_the_place_are_not_logged_twice(start, tmp_path):
    def life(run, die_at=None):
        run.track(state=run.state)
        run.log(before="the loop")
        for epoch in run.epochs(2):
            run.log(top=epoch)
            for _ in run.batches(run.loader(DATA, batch_size=10)):
                run.step()
                run.log(step_again=run.steps_done)
                if run.steps_done == die_at:
                    raise Killed
            run.log(bottom=epoch)
        run.log(after="the loop")

    life(start("whole", save_every="1 step"))
    for died_at in range(1, 8):
        folder = f"cut{died_at}"
        with pytest.raises(Killed):
            life(start(folder, save_every="1 step"), die_at=died_at)
        life(start(folder, save_every="1 step"))
        life(start(folder, save_every="1 step"))
        assert metrics(tmp_path, folder) == metrics(tmp_path, "whole")


def test_learning_rates_are_logged_unless_given(start, tmp_path):
    run = start()
    model = nn.Linear(1, 1)
    run.track(a=torch.optim.SGD(model.parameters(), lr=0.5), model=model)
    run.log(loss=1.0)
    other = torch.optim.SGD(
        [{"params": [p], "lr": rate} for p, rate in zip(model.parameters(), (0.1, 0.2), strict=True)]
    )
    run.track(b=other)
    run.log(loss=2.0)
    run.log(lr_a="mine")
    first, second, third = map(json.loads, metrics(tmp_path, "run").splitlines())
    assert first == {"step": 0, "epoch": 0, "lr": 0.5, "loss": 1.0}
    assert second == {"step": 0, "epoch": 0, "lr_a": 0.5, "lr_b": 0.1, "lr_b_1": 0.2, "loss": 2.0}
    assert third["lr_a"] == "mine"


@pytest.mark.filterwarnings("ignore")  # TensorBoard's reader warns about its own dependencies
def test_tensorboard_never_holds_a_step_twice(start, tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    in_lives(start, [8, 14], keep={"tensorboard": True}, then=lambda run: run.log(every=run.steps_done))
    start("cut")  # closes the writer of the last life
    folder = tmp_path / "cut" / "tensorboard"
    steps = [
        event.step
        for name in sorted(os.listdir(folder))
        for event in EventFileLoader(str(folder / name)).Load()
        for value in event.summary.value
        if value.tag == "every"
    ]
    assert steps == list(range(1, 19))


def test_a_metric_that_is_not_finite_is_mentioned_once(start, tmp_path, capsys):
    run = start()
    for loss in (1.0, float("nan"), float("nan"), float("inf")):
        run.step()
        run.log(loss=loss, word="NaN")
    said = capsys.readouterr().err
    assert said.count("run.log: ") == 1
    assert "run.log: loss is NaN after step 2; said once" in said
