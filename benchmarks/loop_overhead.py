"""What `rk.Run` adds to each step of a plain PyTorch loop, beside what Lightning and Accelerate add. Budget: 10 us.

Loops over the same data, model and optimizer, interleaved epoch by epoch, medians of many short epochs:

  bare         a DataLoader over a TensorDataset, no library
  run          the same step under run.epochs, run.batches(run.loader(...)), run.step(); and over that very DataLoader
  Lightning    a LightningModule with that step under a Trainer without logger, progress bar and checkpoints
  Accelerate   the same step, its three parts and the DataLoader given to `Accelerator.prepare`, `accelerator.backward`

and, since our loader indexes whole batches where torch's collates sample by sample, the plain loop and the run once
more with batches that are ready in a list, where nothing of the loader can hide what the run costs. The line of the run
alone, without any training between its calls, is the steadiest on a machine that others use as well.

Then the same once more with a save in the middle of each epoch, each with its own: `torch.save` of weights and
optimizer, `run.save()`, `trainer.save_checkpoint`, `accelerator.save_state`. Only `rk.Run` writes a new file each time,
syncs it, takes digests and remembers the position in the epoch; that goes on behind the training.

Two clocks: the time of day, and the time that processors spent for this process in all its threads, which programs
beside it disturb less. A library that is not installed is left out, and the table says so.

    python benchmarks/loop_overhead.py [--rounds 25] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from report import header, write_result
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rekindle as rk
from rekindle.store.layout import snapshot_path

SAMPLES, BATCH = 6_400, 64
SAVE_AFTER = SAMPLES // BATCH // 2  # steps of an epoch
LIBRARIES = {"Lightning": "lightning", "Accelerate": "accelerate"}


def parts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), nn.CrossEntropyLoss()


def train_step(model, optimizer, loss_fn, images, labels):
    loss = loss_fn(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


class Clock:
    """Seconds since it was made, by the time of day and by the processors' time of this process."""

    def __init__(self):
        self.began = time.perf_counter(), time.process_time()

    def per_step(self, steps, finish=None):
        """Return both a step; what is still being written in threads counts for the processors only."""
        wall = time.perf_counter() - self.began[0]
        if finish is not None:
            finish()
        return wall / steps, (time.process_time() - self.began[1]) / steps


def bare_epochs(batches, made, path=None):
    """Yield the seconds per step of each epoch; where a path is given, with a save to it in the middle."""
    while True:
        count, clock = 0, Clock()
        for images, labels in batches:
            train_step(*made, images, labels)
            count += 1
            if path is not None and count == SAVE_AFTER:
                torch.save({"model": made[0].state_dict(), "optimizer": made[1].state_dict()}, path)
        yield clock.per_step(count)


def run_epochs(folder, make_batches, made, *, trains=True, saves=False):
    """Yield the seconds per step of each epoch under a run."""
    run = rk.Run(folder, seed=0, save_every=None, tensorboard=False, progress=False)
    run.track(model=made[0], optimizer=made[1])
    batches = make_batches(run)
    for epoch in run.epochs(10**9):
        count, clock = 0, Clock()
        for images, labels in run.batches(batches):
            if trains:
                train_step(*made, images, labels)
            count += 1
            if saves and count == SAVE_AFTER:
                run.save()
            run.step()
        step = epoch * count + SAVE_AFTER
        yield clock.per_step(count, (lambda step=step: wait_for(snapshot_path(folder, step))) if saves else None)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise SystemExit(f"{path} did not appear within a minute")
        time.sleep(0.001)


def lightning_epochs(data, made, path=None):
    """Yield the seconds per step of each epoch under Lightning's Trainer; each is a `fit` of one epoch more."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # it advises more workers

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.loss_fn = made[0], made[2]

        def training_step(self, batch):
            images, labels = batch
            return self.loss_fn(self.model(images), labels)

        def configure_optimizers(self):
            return made[1]

    class Watch(lightning.Callback):
        def on_train_epoch_start(self, *_):
            self.clock = Clock()

        def on_train_batch_end(self, trainer, *others):
            if path is not None and others[-1] + 1 == SAVE_AFTER:
                trainer.save_checkpoint(path)

        def on_train_epoch_end(self, *_):
            self.taken = self.clock.per_step(SAMPLES // BATCH)

    watch, module, loader = Watch(), Module(), DataLoader(data, batch_size=BATCH, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=0,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    while True:
        trainer.fit_loop.max_epochs += 1
        before = trainer.global_step
        trainer.fit(module, loader)
        if trainer.global_step - before != SAMPLES // BATCH:
            raise SystemExit(f"Lightning made {trainer.global_step - before} steps, not {SAMPLES // BATCH}")
        yield watch.taken


def accelerate_epochs(data, made, path=None):
    """Yield the seconds per step of each epoch under Accelerate."""
    from accelerate import Accelerator

    logging.getLogger("accelerate").setLevel(logging.ERROR)
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(*made[:2], DataLoader(data, batch_size=BATCH, shuffle=True))
    while True:
        count, clock = 0, Clock()
        for images, labels in loader:
            loss = made[2](model(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            count += 1
            if path is not None and count == SAVE_AFTER:
                accelerator.save_state(path)
        yield clock.per_step(count)


def measure(loops, rounds):
    """Return name -> (seconds a step, processor seconds a step) of each round; the loops take turns."""
    for loop in loops.values():
        next(loop)  # the first epoch pays for what is made once
    taken = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            taken[name].append(next(loop))
    return taken


def median_us(taken, base=None):
    """Return the medians of both clocks in us; over the base of the same round where one is given."""
    rows = [(0, 0)] * len(taken) if base is None else base
    return tuple(
        statistics.median(one[which] - other[which] for one, other in zip(taken, rows, strict=True)) * 1e6
        for which in (0, 1)
    )


def missing(module):
    """Return why a library cannot be measured here, empty where it can."""
    return "" if importlib.util.find_spec(module) else f"not measured, as it is not installed: pip install {module}"


def loops_that_train(folder, data, ready):
    """Return name -> epochs, and name -> the name of the loop it is compared with."""

    def loader():
        return DataLoader(data, batch_size=BATCH, shuffle=True)

    bare, listed = "bare, DataLoader", "bare, ready batches"
    loops = {
        bare: bare_epochs(loader(), parts()),
        "run, run.loader": run_epochs(f"{folder}/a", lambda run: run.loader(data, batch_size=BATCH), parts()),
        "run, the same DataLoader": run_epochs(f"{folder}/b", lambda _: loader(), parts()),
    }
    if not missing("lightning"):
        loops["Lightning Trainer"] = lightning_epochs(data, parts())
    if not missing("accelerate"):
        loops["Accelerate"] = accelerate_epochs(data, parts())
    base = dict.fromkeys(list(loops)[1:], bare)
    loops |= {
        listed: bare_epochs(ready, parts()),
        "run, ready batches": run_epochs(f"{folder}/c", lambda _: ready, parts()),
        "run alone, ready batches, no training": run_epochs(f"{folder}/d", lambda _: ready, parts(), trains=False),
    }
    return loops, base | {"run, ready batches": listed}


def loops_that_save(folder, data):
    """Return name -> epochs with one save in each, and name -> the name of the same loop without."""
    batches = DataLoader(data, batch_size=BATCH, shuffle=True)
    loops = {
        "bare, DataLoader": bare_epochs(batches, parts()),
        "bare, torch.save": bare_epochs(batches, parts(), f"{folder}/whole.pt"),
        "run, run.loader": run_epochs(f"{folder}/e", lambda run: run.loader(data, batch_size=BATCH), parts()),
        "run, run.save": run_epochs(f"{folder}/f", lambda run: run.loader(data, batch_size=BATCH), parts(), saves=True),
    }
    base = {"bare, torch.save": "bare, DataLoader", "run, run.save": "run, run.loader"}
    if not missing("lightning"):
        loops["Lightning Trainer"] = lightning_epochs(data, parts())
        loops["Lightning, trainer.save_checkpoint"] = lightning_epochs(data, parts(), f"{folder}/lightning.ckpt")
        base["Lightning, trainer.save_checkpoint"] = "Lightning Trainer"
    if not missing("accelerate"):
        loops["Accelerate"] = accelerate_epochs(data, parts())
        loops["Accelerate, accelerator.save_state"] = accelerate_epochs(data, parts(), f"{folder}/accelerate")
        base["Accelerate, accelerator.save_state"] = "Accelerate"
    return loops, base


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="epochs of 100 steps of each loop")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = TensorDataset(torch.randn(SAMPLES, 32), torch.randint(0, 10, (SAMPLES,)))
    ready = list(DataLoader(data, batch_size=BATCH))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        loops, base = loops_that_train(folder, data, ready)
        taken = measure(loops, args.rounds)
        saving, saving_base = loops_that_save(folder, data)
        saved = measure(saving, args.rounds)
    us = {name: median_us(values) for name, values in taken.items()}
    added = {name: median_us(taken[name], taken[one]) for name, one in base.items()}
    steps = SAMPLES // BATCH
    save = {
        name: tuple(value * steps / 1e3 for value in median_us(saved[name], saved[one]))
        for name, one in saving_base.items()
    }
    left_out = {name: reason for name, module in LIBRARIES.items() if (reason := missing(module))}
    if args.json:
        clocks = ("wall", "processors")
        report = {"us_per_step": us, "added_us_per_step": added, "ms_per_save": save}
        report = {
            what: {name: dict(zip(clocks, both, strict=True)) for name, both in rows.items()}
            for what, rows in report.items()
        }
        print(json.dumps(report | {"left_out": left_out}))
    else:
        write_result("loop_overhead", as_lines(args, us, added, save, left_out))
    return 0 if added["run, run.loader"][0] <= 10 else 1


def as_lines(args, us, added, save, left_out):
    """Return the two tables."""
    lines = [
        header("loop_overhead", f"--rounds {args.rounds}", tuple(LIBRARIES.values())),
        f"Load when it ended: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. A small network, batches of {BATCH}.",
        "",
        "| loop | us a step | processors, us a step | added to the bare loop, us | processors, us |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (wall, busy) in us.items():
        more = "{:+.1f} | {:+.1f}".format(*added[name]) if name in added else " | "
        lines.append(f"| {name} | {wall:.1f} | {busy:.1f} | {more} |")
    lines += [f"| {name} | {reason} | | | |" for name, reason in left_out.items()]
    lines += [
        "",
        "| one save in the middle of each epoch | keeps the loop for, ms | processors, ms |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {wall:.1f} | {busy:.1f} |" for name, (wall, busy) in save.items()]
    lines += [f"| {name} | {reason} | |" for name, reason in left_out.items()]
    lines.append("\nOnly `rk.Run` syncs what it writes and takes digests of it; the others leave that to the system.")
    return lines


if __name__ == "__main__":
    sys.exit(main())
