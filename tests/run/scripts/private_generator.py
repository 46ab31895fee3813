"""A data set draws from a generator of its own, which nobody puts back."""

import random
import time

import torch
from torch.utils.data import Dataset

import rekindle as rk


class Jittered(Dataset):
    def __init__(self):
        self.rng = random.Random(5)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.full((4,), index + self.rng.random())


def descend(model):
    """Plain descent: torch.optim would double the time that a start takes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(1e-5 * parameter.grad)
    model.zero_grad()


run = rk.Run("runs/private", seed=1, save_every="100 steps", tensorboard=False)
model = torch.nn.Linear(4, 1)
run.track(model=model)
dataset = Jittered()
batches = run.loader(dataset, batch_size=4)
for _epoch in run.epochs(2):
    for x in run.batches(batches):
        time.sleep(0.02)  # long enough to be killed in
        model(x).square().mean().backward()
        descend(model)
        run.step()
run.close()
