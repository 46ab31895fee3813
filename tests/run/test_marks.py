"""What a snapshot says about the state that it holds: whether its numbers are finite, and what stays because of it."""

from __future__ import annotations

import os

import pytest
import torch
from small_lives import DATA, plain_training
from torch import nn

from rekindle.errors import RunError
from rekindle.store.layout import list_snapshots


def test_a_loss_that_is_not_finite_ends_the_run_before_any_update(start):
    run = start()
    model = nn.Linear(3, 1)
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))

    def life():
        for _ in run.epochs(1):
            for number, (inputs, _) in enumerate(run.batches(run.loader(DATA, batch_size=7))):
                run.backward(model(inputs).sum() * (float("nan") if number == 4 else 1.0))
                run.update()
                run.step()

    with pytest.raises(RunError) as caught:
        life()
    assert caught.value.what == "the loss is nan after step 4 (epoch 0, batch 4)"
    assert "the snapshot of step 3 is untouched" in caught.value.do
    assert [listed.step for listed in list_snapshots(run.folder)] == [3]


def test_parameters_that_became_nan_are_said_once_and_the_last_good_snapshot_stays(start, capsys):
    run = start(keep_last=2, background=False)
    plain_training(run, bad_from=7)
    assert [listed.step for listed in list_snapshots(run.folder)] == [15, 12, 6]
    said = capsys.readouterr().err
    assert said.count("model.weight after step 9 holds NaN or infinity") == 1
    assert "  why     the loss was most likely NaN" in said
    assert "from step 6, the newest snapshot without them, which stays" in said
    assert f"resume={os.path.join(run.folder, 'snapshots', 'step-00000006')!r}" in said
    # the next life knows it too, and keeps it as well
    again = start(keep_last=2, background=False)
    assert "a parameter in it holds NaN or infinity" in capsys.readouterr().err
    plain_training(again, bad_from=0, steps=24)
    assert [listed.step for listed in list_snapshots(run.folder)] == [24, 21, 6]
    assert "holds NaN" not in capsys.readouterr().err
    # and so does a run that is begun from there
    start("other", resume=run.folder)
    assert f"resume={os.path.join(run.folder, 'snapshots', 'step-00000006')!r}" in capsys.readouterr().err


def test_a_run_that_was_never_finite_says_that_nothing_is(start, capsys):
    plain_training(start(), bad_from=0)
    assert "no snapshot of this run is free of them" in capsys.readouterr().err


def test_finite_parameters_and_buffers_of_infinities_are_nothing_to_mention(start, capsys):
    run = start(keep_last=2, background=False)
    model = nn.Linear(2, 1)
    model.register_buffer("mask", torch.full((2,), -torch.inf))
    with torch.no_grad():
        model.weight.fill_(3e38)  # finite, and their sum is not
    run.track(model=model)
    for _ in range(9):
        run.step()
    assert [listed.step for listed in list_snapshots(run.folder)] == [9, 6]
    assert "infinity" not in capsys.readouterr().err
