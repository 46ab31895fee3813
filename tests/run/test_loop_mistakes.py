"""Mistakes in the calls of a loop: each is said where it is made, in its own words."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk
from rekindle.errors import ConfigError, RunError

DATA = TensorDataset(torch.ones(8, 2))


@pytest.fixture
def start(tmp_path):
    opened = []

    def make(**settings):
        run = rk.Run(tmp_path / "run", seed=0, save_every=None, tensorboard=False, **settings)
        opened.append(run)
        net = nn.Linear(2, 1)
        return run, *run.prepare(net, torch.optim.SGD(net.parameters(), lr=0.01))

    yield make
    for run in opened:
        run.close()


def train(run, net, *, epochs=2, loss=lambda output: output.mean(), log="loss", body=lambda: None):
    for _ in run.epochs(epochs):
        for (inputs,) in run.batches(run.loader(DATA, batch_size=4)):
            run.backward(loss(net(inputs)))
            run.update()
            run.step()
        body()
        run.log(**{log: 1.0})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda output: output, r"the loss has the shape \[4, 1\]; one number is wanted: loss.mean\(\)"),
        (
            lambda output: output.mean().item(),
            r"a tensor is wanted, not float; without .item\(\), which drops the graph",
        ),
    ],
)
def test_what_is_no_loss_is_refused(start, loss, words):
    run, net, _ = start()
    with pytest.raises(TypeError, match=words):
        train(run, net, loss=loss)


def test_an_optimizer_that_is_not_tracked_is_refused(start):
    run, net, _ = start()
    other = torch.optim.Adam(net.parameters())
    for _ in run.epochs(1):
        for (inputs,) in run.batches(run.loader(DATA, batch_size=4)):
            run.backward(net(inputs).mean())
            with pytest.raises(RunError, match="this optimizer is not tracked"):
                run.update(other)
            run.update()
            run.step()


def test_patience_may_be_asked_for_again_but_not_otherwise(start):
    run, net, _ = start()
    train(run, net, body=lambda: run.stop_when("min:loss", patience=5))
    with pytest.raises(ConfigError, match="was asked for already, with patience=5"):
        run.stop_when("min:loss", patience=6)


def test_a_metric_that_is_waited_for_and_never_logged_is_said_once(start, capsys):
    run, net, _ = start(keep_best="min:los")
    run.stop_when("accuracy", patience=1)
    train(run, net)
    run.close()
    said = [line for line in capsys.readouterr().err.splitlines() if "nothing was logged" in line]
    assert said == [
        "rekindle: keep_best: nothing was logged as 'los'; nearest: loss",
        "rekindle: run.stop_when: nothing was logged as 'accuracy'",
    ]


def test_a_metric_that_is_logged_now_and_then_is_waited_for(start, capsys):
    run, net, _ = start(keep_best="accuracy")
    names = iter(["loss", "loss", "accuracy"])
    for _ in run.epochs(3):
        for (inputs,) in run.batches(run.loader(DATA, batch_size=4)):
            run.backward(net(inputs).mean())
            run.update()
            run.step()
        run.log(**{next(names): 1.0})
    run.close()
    assert "nothing was logged" not in capsys.readouterr().err


def test_a_loop_that_is_entered_again_after_an_exception_says_what_that_means(start, capsys):
    """As in a notebook, where a cell failed and is run again."""
    run, net, _ = start()

    def fails():
        raise KeyError("mine")

    with pytest.raises(KeyError):
        train(run, net, body=fails)
    train(run, net)
    assert "epoch 0 was left before its end, and begins anew with what it has learned since" in capsys.readouterr().err
