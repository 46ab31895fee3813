"""A wrong saver: snapshots are promised, and some of them vanish."""

import shutil
import time

import torch
from torch.utils.data import TensorDataset

import rekindle as rk


def lose(snapshot):
    if 4 <= snapshot.step < 30:
        shutil.rmtree(snapshot.path)


run = rk.Run("runs/loses", seed=1, save_every="100 steps", keep_last=None, tensorboard=False, on_saved=lose)
model = torch.nn.Linear(4, 1)
run.track(model=model)
for _epoch in run.epochs(2):
    for (_x,) in run.batches(run.loader(TensorDataset(torch.zeros(64, 4)), batch_size=4)):
        time.sleep(0.02)  # long enough to be killed in
        run.step()
run.close()
