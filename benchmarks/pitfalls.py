"""What watching for pitfalls costs: the same training with `watch=True` and `watch=False`, in turn, in one process.

    python benchmarks/pitfalls.py [--repeat 5]

CPU time of this process, the median of each, and of the ratios of neighbours. A small network shows the worst case: its
steps are short.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from report import header, write_result
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

SAMPLES, EPOCHS, BATCH = 2048, 2, 16
STEPS = SAMPLES // BATCH * EPOCHS


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
        batches = run.loader(
            TensorDataset(torch.randn(SAMPLES, 64), torch.randint(0, 10, (SAMPLES,))), batch_size=BATCH
        )
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        header("pitfalls", f"--repeat {args.repeat}"),
        f"{STEPS:,} steps, CPU time, one thread\n",
        "| network | watched us a step | not watched us a step | watching costs us a step | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for make in (small, deep):
        seconds(make, watch=True)  # the first one imports
        pairs = [(seconds(make, watch=True), seconds(make, watch=False)) for _ in range(args.repeat)]
        on, off = (statistics.median(each) / STEPS * 1e6 for each in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        lines.append(f"| {make.__name__} | {on:,.0f} | {off:,.0f} | {on - off:,.0f} | {ratio:.3f} |")
        print(lines[-1], flush=True)
    write_result("pitfalls", lines)


if __name__ == "__main__":
    main()
