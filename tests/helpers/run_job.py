"""A small training with everything that makes an exact resume hard, for tests that kill it.

Dropout, batch norm, samples drawn with Python's, NumPy's and torch's generators, momentum, a schedule, averaged
weights, accumulation, a tracked generator of its own, and plain state. `main(config)` trains and writes what came out.
"""

# ruff: noqa: NPY002 - NumPy's legacy global generator is what data sets draw from
# ruff: noqa: ARG005 - stand-ins take what the real ones take

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

import rekindle as rk

SAMPLES, FEATURES = 96, 6


class Noisy(Dataset):
    """Samples that draw from all three global generators; `slow` seconds each."""

    def __init__(self, slow: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
        self.slow = slow

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.slow:
            time.sleep(self.slow)
        clean = self.inputs[index]
        noise = torch.rand(FEATURES) * 0.1 + random.random() * 0.1 + float(np.random.rand()) * 0.1
        return clean + noise, clean.sum().reshape(1)


class Net(nn.Module):
    """Dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


def digest(*parts: Any) -> str:
    """Return the SHA-256 of all tensors in state dicts and of all plain values."""
    running = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            running.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                running.update(repr(key).encode())
                take(value[key])
        elif isinstance(value, (list, tuple)):
            for part in value:
                take(part)
        elif not callable(value):
            running.update(repr(value).encode())

    for part in parts:
        take(part)
    return running.hexdigest()


def main(config: dict[str, Any]) -> None:
    """Train as `config` says, and write ``result.json`` into its `out` folder.

    `wrong` plants a mistake that a resumed life must show: a judge that does not see it is no judge.
    """
    wrong = config.get("wrong")
    if wrong == "cuts no log":
        from rekindle.run.log import MetricsFile

        MetricsFile.cut = lambda self, size: None
    out = Path(config["out"])
    promises = os.open(out / "promises", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    run = rk.Run(
        config["folder"],
        seed=config.get("seed", 5),
        save_every=config.get("save_every", "5 steps"),
        keep_last=config.get("keep_last", 2),
        keep_best=config.get("keep_best"),
        accumulate=config.get("accumulate", 1) if config.get("form") == "prepared" else 1,
        tensorboard=config.get("tensorboard", False),
        on_saved=lambda saved: os.write(promises, f"{saved.step}\n".encode()),
    )
    if wrong == "reseeds nothing":
        from rekindle.run import batches, loop

        batches.seed_globals = loop.seed_globals = lambda key: None
        if run.resumed_from is not None:
            torch.manual_seed(time.time_ns() % 2**31)
    if "patience_s" in config:
        from rekindle.run import signals

        signals.PATIENCE_S = config["patience_s"]
    model = Net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    scheduler = rk.schedule(optimizer, "cosine", warmup=4, total=60)
    own = np.random.default_rng(9)
    dataset = Noisy(config.get("slow", 0.0))
    workers = config.get("workers", 0)
    if config.get("form") == "prepared":
        model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)
        run.track(average=average, own=own)
    else:
        tracked = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "average": average, "own": own}
        if wrong in {"forgets scheduler", "forgets average", "forgets own"}:
            del tracked[wrong.split()[1]]
        run.track(**tracked)
    if config.get("form") == "dataloader":
        loader = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=workers)
    else:
        loader = run.loader(dataset, batch_size=8, num_workers=workers)
    check = run.loader(dataset, batch_size=48, shuffle=False)
    every = config.get("accumulate", 1)
    for _ in run.epochs(config.get("epochs", 3)):
        model.train()
        for number, (inputs, targets) in enumerate(run.batches(loader)):
            with run.autocast():
                loss = ((model(inputs + torch.rand_like(inputs) * 0.01 * random.random()) - targets) ** 2).mean()
            loss = loss * (1 + 0.01 * own.random())
            if config.get("form") == "prepared":
                run.backward(loss)
                if run.update(clip_norm=1.0):
                    average.update_parameters(model)
                    run.state["updates"] = run.state.get("updates", 0) + 1
            else:
                (loss / every).backward()
                if (number + 1) % every == 0:
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                    average.update_parameters(model)
                    run.state["updates"] = run.state.get("updates", 0) + 1
            time.sleep(config.get("sleep", 0.0))
            run.step()
            if run.steps_done % 4 == 0:
                run.log(loss=loss)
            if run.steps_done == config.get("die_at"):
                os.kill(os.getpid(), 9)
        with run.evaluating(model):
            errors = [((model(inputs) - targets) ** 2).mean() for inputs, targets in check]
            time.sleep(config.get("evaluation_s", 0.0))
        run.log(val_error=torch.stack(errors).mean(), drawn=random.random())
    run.close()
    result = {
        "steps": run.steps_done,
        "state": run.state,
        "weights": digest(model.state_dict()),
        "average": digest(average.state_dict()),
        "optimizer": digest(optimizer.state_dict()),
        "scheduler": digest(scheduler.state_dict()["_last_lr"]),
        "own": digest(own.bit_generator.state),
        "metrics": (Path(config["folder"]) / "metrics.jsonl").read_text(),
    }
    (out / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
