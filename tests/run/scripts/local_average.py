"""A running average of the loss lives in a local variable and scales the next loss."""

import time

import torch
from torch.utils.data import TensorDataset

import rekindle as rk


def train(run, model, optimizer, batches):
    average = 1.0
    for _epoch in run.epochs(2):
        for (x,) in run.batches(batches):
            time.sleep(0.02)  # long enough to be killed in
            loss = model(x).square().mean()
            average = 0.9 * average + 0.1 * loss.item()
            (loss / average).backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step()


def main():
    run = rk.Run("runs/average", seed=1, save_every="100 steps", tensorboard=False)
    data = TensorDataset(torch.randn(64, 4))
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    train(run, model, optimizer, run.loader(data, batch_size=4))
    run.close()


if __name__ == "__main__":
    main()
