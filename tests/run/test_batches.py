"""Where a loop over batches goes on when its run was interrupted in the middle of an epoch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

DATA = TensorDataset(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40))


class Killed(Exception):
    """Ends a life in the body of the loop."""


def live(folder, *, die_at=None, **sizes):
    """Train for two epochs; return the samples of each batch, and the weights."""
    seen = []
    with rk.Run(folder, seed=0, save_every="1 step", tensorboard=False, progress=False, watch=False) as run:
        model = nn.Linear(3, 1)
        model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        loader = run.loader(DATA, **sizes)
        for epoch in run.epochs(2):
            for inputs, numbers in run.batches(loader):
                run.backward(model(inputs).square().mean())
                run.update()
                run.step()
                seen.append((epoch, numbers.tolist()))
                if run.steps_done == die_at:
                    raise Killed
    return seen, model.weight.detach().clone()


@pytest.mark.parametrize("die_at", [1, 3, 7])
@pytest.mark.parametrize("sizes", [{"batch_size": 12}, {"global_batch_size": 12}], ids=str)
def test_one_process_goes_on_in_mid_epoch_however_its_batches_were_sized(tmp_path, sizes, die_at):
    straight, weights = live(tmp_path / "straight", **sizes)
    with pytest.raises(Killed):
        live(tmp_path / "killed", die_at=die_at, **sizes)
    seen, again = live(tmp_path / "killed", **sizes)
    assert seen == straight[-len(seen) :]
    assert len(straight) - die_at <= len(seen) <= len(straight) - die_at + 1
    assert torch.equal(again, weights)
