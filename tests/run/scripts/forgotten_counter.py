"""A global counter changes the loss, and no snapshot holds it."""

import time

import torch
from torch.utils.data import TensorDataset

import rekindle as rk

COUNTER = 0


def loss_of(model, x):
    global COUNTER  # noqa: PLW0603 - the planted bug
    COUNTER += 1
    return model(x).square().mean() * (1 + 0.01 * COUNTER)


def main():
    run = rk.Run("runs/counter", seed=1, save_every="100 steps", tensorboard=False)
    data = TensorDataset(torch.randn(64, 4))
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    batches = run.loader(data, batch_size=4)
    for _epoch in run.epochs(2):
        for (x,) in run.batches(batches):
            time.sleep(0.02)  # long enough to be killed in
            loss_of(model, x).backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step()
    run.close()


if __name__ == "__main__":
    main()
