"""What watching for pitfalls costs: the same training with `watch=True` and `watch=False`, in turn, in one process.

    python benchmarks/pitfalls.py

Prints the median time of each, and the ratio. A small network shows the worst case: its steps are short.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

SAMPLES, EPOCHS, ROUNDS = 2048, 4, 9


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def deep() -> nn.Module:
    layers = [layer for _ in range(40) for layer in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def seconds(make, watch: bool) -> float:
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss_fn = nn.CrossEntropyLoss()
    with (
        tempfile.TemporaryDirectory() as folder,
        rk.Run(folder, seed=0, save_every=None, tensorboard=False, watch=watch) as run,
    ):
        run.track(model=model, optimizer=optimizer)
        batches = run.loader(TensorDataset(torch.randn(SAMPLES, 64), torch.randint(0, 10, (SAMPLES,))), batch_size=16)
        began = time.process_time()
        for _ in run.epochs(EPOCHS):
            for inputs, labels in run.batches(batches):
                loss = loss_fn(model(inputs), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.step()
        return time.process_time() - began


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {SAMPLES // 16 * EPOCHS} steps, CPU time")
    for make in (small, deep):
        seconds(make, watch=True)  # the first one imports
        pairs = [(seconds(make, watch=True), seconds(make, watch=False)) for _ in range(ROUNDS)]
        on, off = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"{make.__name__}: {on:.3f} s watched, {off:.3f} s not; median of ratios {ratio:.3f}")


if __name__ == "__main__":
    main()
