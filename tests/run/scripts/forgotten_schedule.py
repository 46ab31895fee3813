"""A learning-rate schedule that is not tracked starts again after each kill."""

import time

import torch
from torch.utils.data import TensorDataset

import rekindle as rk

run = rk.Run("runs/schedule", seed=1, save_every="100 steps", tensorboard=False)
data = TensorDataset(torch.randn(64, 4))
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
run.track(model=model, optimizer=optimizer)
batches = run.loader(data, batch_size=4)
for _epoch in run.epochs(2):
    for (x,) in run.batches(batches):
        time.sleep(0.02)  # long enough to be killed in
        model(x).square().mean().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        run.step()
run.close()
