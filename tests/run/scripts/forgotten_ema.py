"""An average of the weights is not tracked; training does not need it, and what is logged of it is wrong."""

import time

import torch
from torch.utils.data import TensorDataset

import rekindle as rk


def descend(model):
    """Plain descent: torch.optim would double the time that a start takes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.01 * parameter.grad)
    model.zero_grad()


run = rk.Run("runs/ema", seed=1, save_every="100 steps", tensorboard=False)
data = TensorDataset(torch.randn(64, 4))
model = torch.nn.Linear(4, 1)
ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
run.track(model=model)
batches = run.loader(data, batch_size=4)
for _epoch in run.epochs(2):
    for (x,) in run.batches(batches):
        time.sleep(0.02)  # long enough to be killed in
        model(x).square().mean().backward()
        descend(model)
        ema.update_parameters(model)
        run.step()
    run.log(weight=ema.module.weight.norm().item())
run.close()
