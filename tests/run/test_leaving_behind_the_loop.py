"""A run that is told to leave behind the last batch of an epoch has the epoch's body done first.

What the body does there (a validation, `run.log(loss=loss)`) may use what the loop over batches computed. A life that
began behind the loop would not have it, and end in a NameError at every start.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

DATA = TensorDataset(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))


def live(folder, *, leave_in=None):
    """Train for three epochs; leave in the second one, where told."""
    with rk.Run(folder, seed=0, save_every="5 minutes", tensorboard=False, progress=False) as run:
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for epoch in run.epochs(3):
            for (inputs,) in run.batches(run.loader(DATA, batch_size=16)):
                loss = model(inputs).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if leave_in == "the last batch" and run.steps_done == 7:
                    os.kill(os.getpid(), signal.SIGTERM)
                run.step()
            if leave_in == "the body" and epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            with run.evaluating(model):
                if leave_in == "the evaluation" and epoch == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                error = model(DATA.tensors[0]).square().mean()
            run.log(loss=loss, error=error)
    return (folder / "metrics.jsonl").read_text(), model.weight.detach().clone()


@pytest.mark.parametrize("where", ["the last batch", "the body", "the evaluation"])
def test_a_run_that_left_behind_the_loop_goes_on_with_the_same_log_and_bits(tmp_path, where):
    log, weights = live(tmp_path / "straight")
    with pytest.raises(SystemExit) as left:
        live(tmp_path / "left", leave_in=where)
    assert left.value.code == 75
    again, same = live(tmp_path / "left")
    assert again == log
    assert torch.equal(same, weights)
