"""A plain attribute of the model counts its calls and takes part in them; no state dict holds it."""

import time

import torch
from torch.utils.data import TensorDataset

import rekindle as rk


class Warming(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * min(1.0, self.calls / 20)


def descend(model):
    """Plain descent: torch.optim would double the time that a start takes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.01 * parameter.grad)
    model.zero_grad()


run = rk.Run("runs/hidden", seed=1, save_every="100 steps", tensorboard=False)
data = TensorDataset(torch.randn(64, 4))
model = Warming()
run.track(model=model)
batches = run.loader(data, batch_size=4)
for _epoch in run.epochs(2):
    for (x,) in run.batches(batches):
        time.sleep(0.02)  # long enough to be killed in
        model(x).square().mean().backward()
        descend(model)
        run.step()
run.close()
