"""A data set that is another one when the run goes on: refused inside an epoch, said between two."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rekindle as rk
from rekindle.errors import StateMismatch

CHANGED = "the loader changed since the epoch before: "


class Stopped(Exception):
    """The process ends here."""


def stop_after(step, steps_done):
    if step == steps_done:
        raise Stopped


@pytest.fixture
def live(tmp_path):
    """Live one life of a run over so many samples, up to a step; return its steps."""

    def one(samples, *, until=None, epochs=3, batch_size=4):
        run = rk.Run(tmp_path / "run", seed=1, save_every="1 steps", tensorboard=False, background=False)
        model = nn.Linear(1, 1)
        run.track(model=model)
        loader = run.loader(torch.arange(float(samples)).reshape(-1, 1), batch_size=batch_size)
        try:
            for _ in run.epochs(epochs):
                for _ in run.batches(loader):
                    run.step()
                    stop_after(until, run.steps_done)  # the step itself is not saved any more
        except Stopped:
            pass
        finally:
            run._shut()
        return run.steps_done

    return one


def test_inside_an_epoch_it_is_refused(live):
    live(16, until=6)
    with pytest.raises(StateMismatch, match="samples was 16 and is 20"):
        live(20)
    assert live(16) == 12


def test_between_two_epochs_it_is_said_and_gone_on_with(live, capsys):
    live(16, until=5)  # what is saved is the end of the first epoch
    assert live(20) == 4 + 5 + 5
    assert CHANGED + "samples was 16 and is 20; the bits differ from here on" in capsys.readouterr().err


def test_a_finished_run_that_is_given_more_epochs_over_more_data_says_so(live, capsys):
    live(16, epochs=1)
    assert live(8, epochs=2, batch_size=2) == 4 + 4
    assert CHANGED + "samples was 16 and is 8, batch_size was 4 and is 2; the bits" in capsys.readouterr().err


def test_nothing_is_said_where_nothing_changed(live, capsys):
    live(16, until=5)
    live(16, until=6)
    live(16)
    assert CHANGED not in capsys.readouterr().err
