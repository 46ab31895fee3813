"""What `rk.Run` adds to each step of a plain PyTorch loop. Budget: 10 us.

Three loops over the same data, model and optimizer, interleaved, medians of many short epochs:

  bare       a DataLoader over a TensorDataset, no rekindle
  run        the same step under run.epochs, run.batches(run.loader(...)), run.step()
  foreign    run.batches over that very DataLoader

and, since our loader indexes whole batches where torch's collates sample by sample, the same once more with batches
are ready in a list, where nothing of the loader can hide what the run costs. The line of the run alone, without any
training between its calls, is the only steady one on a machine that others use as well.

    python benchmarks/loop_overhead.py [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from report import header, write_result
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rekindle as rk

SAMPLES, BATCH, ROUNDS = 6_400, 64, 25


def parts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), nn.CrossEntropyLoss()


def train_step(model, optimizer, loss_fn, images, labels):
    loss = loss_fn(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def bare_epochs(batches, made):
    """Yield the seconds per step of each epoch."""
    while True:
        count, began = 0, time.perf_counter()
        for images, labels in batches:
            train_step(*made, images, labels)
            count += 1
        yield (time.perf_counter() - began) / count


def run_epochs(folder, make_batches, made, *, trains=True):
    """Yield the seconds per step of each epoch under a run that has nothing to save meanwhile."""
    run = rk.Run(folder, seed=0, save_every=None, tensorboard=False, progress=False)
    run.track(model=made[0], optimizer=made[1])
    batches = make_batches(run)
    for _ in run.epochs(10**9):
        count, began = 0, time.perf_counter()
        for images, labels in run.batches(batches):
            if trains:
                train_step(*made, images, labels)
            run.step()
            count += 1
        yield (time.perf_counter() - began) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    json_wanted = parser.parse_args().json
    torch.set_num_threads(1)
    data = TensorDataset(torch.randn(SAMPLES, 32), torch.randint(0, 10, (SAMPLES,)))
    ready = list(DataLoader(data, batch_size=BATCH))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        loops = {
            "bare, DataLoader": bare_epochs(DataLoader(data, batch_size=BATCH, shuffle=True), parts()),
            "run, run.loader": run_epochs(f"{folder}/a", lambda run: run.loader(data, batch_size=BATCH), parts()),
            "run, the same DataLoader": run_epochs(
                f"{folder}/b", lambda _: DataLoader(data, batch_size=BATCH, shuffle=True), parts()
            ),
            "bare, ready batches": bare_epochs(ready, parts()),
            "run, ready batches": run_epochs(f"{folder}/c", lambda _: ready, parts()),
            "run alone, ready batches, no training": run_epochs(f"{folder}/d", lambda _: ready, parts(), trains=False),
        }
        taken = {name: [] for name in loops}
        for loop in loops.values():
            next(loop)  # the first epoch pays for what is made once
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                taken[name].append(next(loop))
        us = {name: statistics.median(values) * 1e6 for name, values in taken.items()}
        pairs = {
            "run.loader over the bare loop": ("run, run.loader", "bare, DataLoader"),
            "own DataLoader over the bare loop": ("run, the same DataLoader", "bare, DataLoader"),
            "ready batches over the bare loop": ("run, ready batches", "bare, ready batches"),
        }
        added = {
            name: statistics.median(a - b for a, b in zip(taken[one], taken[two], strict=True)) * 1e6
            for name, (one, two) in pairs.items()
        }
    if json_wanted:
        print(json.dumps({"us_per_step": us, "added_us_per_step": added}))
    else:
        rows = [f"| {name} | {value:.1f} |" for name, value in us.items()]
        rows += [f"| added: {name} | {value:+.1f} |" for name, value in added.items()]
        write_result("loop_overhead", [header("loop_overhead", ""), "| loop | us a step |", "| --- | --- |", *rows])
    return 0 if added["run.loader over the bare loop"] <= 10 else 1


if __name__ == "__main__":
    sys.exit(main())
