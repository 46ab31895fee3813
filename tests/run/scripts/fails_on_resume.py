"""A script that works only when it begins from nothing."""

import time

import torch
from torch.utils.data import TensorDataset

import rekindle as rk

run = rk.Run("runs/fails", seed=1, save_every="100 steps", tensorboard=False)
model = torch.nn.Linear(4, 1)
run.track(model=model)
if run.steps_done:
    raise SystemExit("cannot go on: the warm-up needs step 0")
for _epoch in run.epochs(2):
    for (_x,) in run.batches(run.loader(TensorDataset(torch.zeros(64, 4)), batch_size=4)):
        time.sleep(0.02)  # long enough to be killed in
        run.step()
run.close()
