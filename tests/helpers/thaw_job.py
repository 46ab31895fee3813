"""Models that are frozen before or after they are wrapped, and then thawed, on several processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from ranks_job import Net, Noisy
from run_job import digest
from torch.nn.parallel import DistributedDataParallel

import rekindle as rk
from rekindle.errors import ConfigError
from rekindle.parallel import ddp

LOOKS_FOR_UNUSED = {"find_unused_parameters": True}


def frozen_first(run: rk.Run, model: Any) -> tuple[Any, Any]:
    """Freeze, wrap, and plan a thaw of what DDP does not know."""
    rk.freeze(model, but="head")
    wrapped = run.prepare(model)
    return wrapped, rk.Thaw(model, {0: "middle"})


def planned_first(run: rk.Run, model: Any) -> tuple[Any, Any]:
    """The plan is older than the wrapper."""
    rk.freeze(model, but="head")
    thaw = rk.Thaw(model, {5: "middle"})
    return run.prepare(model), thaw


def unfrozen(run: rk.Run, model: Any) -> tuple[Any, Any]:
    """Thawed by one call."""
    rk.freeze(model, but="head")
    wrapped = run.prepare(model)
    return wrapped, lambda _: rk.unfreeze(wrapped, patterns="middle")


def by_hand(run: rk.Run, model: Any) -> tuple[Any, Any]:
    """Without a word to rekindle."""
    model.middle.requires_grad_(False)
    wrapped = run.prepare(model)
    return wrapped, lambda _: model.middle.requires_grad_(True)


def replaced(run: rk.Run, model: Any) -> tuple[Any, Any]:
    """A new part, in place of one that was wrapped."""
    wrapped = run.prepare(model, ddp=LOOKS_FOR_UNUSED)
    model.head = torch.nn.Linear(40, 1)
    return wrapped, lambda _: None


def wrapped_first(run: rk.Run, model: Any) -> tuple[Any, Any]:
    """As it has to be."""
    wrapped = run.prepare(model, ddp=LOOKS_FOR_UNUSED)
    rk.freeze(model, but="head")
    return wrapped, rk.Thaw(model, {0: "middle"})


def wrapped_by_hand(run: rk.Run, model: Any) -> tuple[Any, Any]:
    """The same, and frozen before the run knows of the wrapper."""
    wrapped = DistributedDataParallel(model, **LOOKS_FOR_UNUSED)
    rk.freeze(model, but="head")
    run.track(model=wrapped)
    return wrapped, rk.Thaw(model, {0: "middle"})


WAYS = (frozen_first, planned_first, unfrozen, by_hand, replaced, wrapped_first, wrapped_by_hand)


def main(config: dict[str, Any]) -> None:
    """Go every way, and write what came of it into ``result-RANK.json``; also where nobody looks."""
    out, results, require = Path(config["out"]), {}, ddp.require_averaged
    for way in WAYS:
        results[way.__name__] = train(out / way.__name__, way)
    ddp.require_averaged = lambda _: None
    results["unwatched"] = train(out / "unwatched", by_hand)
    ddp.require_averaged = require
    (out / f"result-{os.environ['RANK']}.json").write_text(json.dumps(results))


def train(folder: Path, way: Any) -> str:
    """Return the digest of the weights in the end, or the error."""
    run = rk.Run(folder, seed=5, save_every=None, tensorboard=False, watch=False)
    model = Net()
    try:
        wrapped, thaw = way(run, model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        run.track(optimizer=optimizer)
        before = digest(model.middle.state_dict())
        for epoch in run.epochs(1):
            thaw(epoch)
            for inputs, targets, _ in run.batches(run.loader(Noisy(24, None, 0.0), batch_size=4)):
                run.backward((wrapped(inputs) - targets).square().mean())
                run.update()
                run.step()
    except ConfigError as error:
        return str(error)
    finally:
        run._shut()  # as the process's end would
    return f"{digest(model.state_dict())} {'trained' * (digest(model.middle.state_dict()) != before)}"
