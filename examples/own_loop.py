"""A training loop of one's own that survives everything: the lines with `run` in them are all that rekindle needs.

    python examples/own_loop.py [folder]

Press Ctrl-C or kill it at any moment, and start it again: it goes on, and ends with the same bits.
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

digits = load_digits()
images, labels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target)
train, test = TensorDataset(images[:1500], labels[:1500]), (images[1500:], labels[1500:])

run = rk.Run(sys.argv[1] if len(sys.argv) > 1 else "runs/own-loop", seed=0, save_every="50 steps", keep_last=3)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10)
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
batches = run.loader(train, batch_size=64)
scheduler = rk.schedule(optimizer, "cosine", warmup=10, total=5 * len(batches))
loss_fn = nn.CrossEntropyLoss()

run.track(model=model, optimizer=optimizer, scheduler=scheduler)

for _ in run.epochs(5):
    for inputs, targets in run.batches(batches):
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        run.show(loss=loss.detach())
        run.step()
    with run.evaluating(model):
        run.log(accuracy=(model(test[0]).argmax(1) == test[1]).float().mean())

with run.evaluating(model):
    print(f"accuracy {(model(test[0]).argmax(1) == test[1]).float().mean():.4f} after {run.steps_done} steps")
