"""The same training on one process or on many: start it in whatever way you start processes.

    python examples/many_processes.py                                   one process
    torchrun --standalone --nproc-per-node 2 examples/many_processes.py     two
    rekindle launch --procs 2 examples/many_processes.py                two, with a word about each that fails

Stop it and start it with another number of processes: every digit still comes once an epoch, and the batches of all
processes together stay as large as they were.
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

with rk.Run(sys.argv[1] if len(sys.argv) > 1 else "runs/many", seed=0, save_every="10 steps", keep_last=3) as run:
    with run.rank_zero_first():  # where data are downloaded or unpacked, once is enough
        digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target)
    train, test = TensorDataset(images[:1500], labels[:1500]), TensorDataset(images[1500:], labels[1500:])

    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = run.loader(train, global_batch_size=96)
    check = run.loader(test, batch_size=64, shuffle=False)
    scheduler = rk.schedule(optimizer, "cosine", warmup=10, total=3 * len(batches))
    model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)
    loss_fn = nn.CrossEntropyLoss()

    def accuracy() -> float:
        """Each process looks at its own part of the test set, and all of them get the whole answer."""
        with run.evaluating(model):
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in check.own_share())
        return run.reduce(right, "sum") / len(test)

    for _ in run.epochs(3):
        for inputs, targets in run.batches(batches):
            run.backward(loss_fn(model(inputs), targets))
            run.update(clip_norm=1.0)
            run.step()
        run.log(accuracy=accuracy())

    final = accuracy()
    if run.is_main:
        print(f"accuracy {final:.4f} after {run.steps_done} steps on {run.world_size} processes")
