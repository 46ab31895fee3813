"""A right script on several processes."""

import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

with rk.Run("runs/on_many", seed=0, save_every="3 steps", tensorboard=False) as run:
    inputs = torch.randn(60, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
    model, optimizer = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    batches = run.loader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4)
    for _ in run.epochs(4):
        for x, y in run.batches(batches):
            loss = nn.functional.mse_loss(model(x), y)
            run.backward(loss)
            run.update()
            time.sleep(0.05)
            run.step()
        run.log(loss=loss)
