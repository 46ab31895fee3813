"""A model that is cut into parts, one for each process: weights, gradients, optimizer state, and snapshots of them.

    torchrun --standalone --nproc-per-node 2 examples/sharded.py
    rekindle convert runs/sharded model.safetensors        plain weights, without processes and without torch

Stop it and start it with another number of processes: it goes on from the same snapshot.
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk


class Reader(nn.Module):
    """Reads a picture row by row: B pictures, T rows, H features."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.into = nn.Linear(8, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True) for _ in range(3)
        )
        self.out = nn.Linear(width, 10)

    def forward(self, rows_BTH: torch.Tensor) -> torch.Tensor:
        """Return B rows of 10 scores."""
        hidden = self.into(rows_BTH)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.out(hidden.mean(1))


with rk.Run(sys.argv[1] if len(sys.argv) > 1 else "runs/sharded", seed=0, save_every="10 steps", keep_last=3) as run:
    digits = load_digits()
    pictures, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    train, test = TensorDataset(pictures[:1500], labels[:1500]), TensorDataset(pictures[1500:], labels[1500:])
    batches = run.loader(train, global_batch_size=96)
    check = run.loader(test, batch_size=64, shuffle=False)

    model = Reader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = run.prepare(
        model, optimizer, shard="fsdp", fsdp={"blocks": [nn.TransformerEncoderLayer], "reshard_after_forward": True}
    )
    loss_fn = nn.CrossEntropyLoss()

    def accuracy() -> float:
        """Every pass gathers weights from all processes, so all of them make the same passes, over everything."""
        with run.evaluating(model):
            return sum(int((model(x).argmax(1) == y).sum()) for x, y in check) / len(test)

    for _ in run.epochs(3):
        for inputs, targets in run.batches(batches):
            run.backward(loss_fn(model(inputs), targets))
            run.update(clip_norm=1.0)
            run.step()
        run.log(accuracy=accuracy())

    final = accuracy()
    if run.is_main:
        print(f"accuracy {final:.4f} after {run.steps_done} steps on {run.world_size} processes")
