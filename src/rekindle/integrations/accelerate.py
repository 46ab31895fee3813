"""A run around an Accelerate loop: everything that was prepared is tracked, and the loop gets its place back.

An Accelerate loop is the user's own, so it can be exact like any other: `start` returns a `rekindle.Run` that knows
what the accelerator has prepared. The loop goes over `run.epochs` and `run.batches`, and says `run.step()` after each
update.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate import Accelerator

from rekindle.errors import RunError
from rekindle.run.loop import Run

__all__ = ["start"]


def start(accelerator: Accelerator, folder: str | os.PathLike[str], **settings: Any) -> Run:
    """Return a run that tracks all that the accelerator has prepared so far, restored where there is a snapshot.

    Models, optimizers, schedulers, the scaler and whatever was given to `register_for_checkpointing` are tracked, by
    the names ``model``, ``optimizer``, ``scheduler``, ``scaler`` and ``custom``, with ``_2`` and so on where there are
    several. The accelerator keeps what is its own: devices, precision, accumulation.

    Args:
        accelerator: after its `prepare`.
        folder: of the run.
        **settings: as of `rekindle.Run`, but for those that are the accelerator's.

    Raises:
        RunError: nothing was prepared, or there is more than one process.
        TypeError: a setting that is the accelerator's.
        RunError, ConfigError, OSError: as `rekindle.Run`.

    Example:
        accelerator = Accelerator(mixed_precision="bf16")
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        run = start(accelerator, "runs/mine", seed=0, save_every="200 steps")
        for epoch in run.epochs(10):
            for inputs, targets in run.batches(loader):
                with accelerator.accumulate(model):
                    accelerator.backward(loss_fn(model(inputs), targets))
                    optimizer.step()
                    optimizer.zero_grad()
                run.step()
    """
    for name in ("precision", "accumulate", "device"):
        if name in settings:
            raise TypeError(f"start() takes no {name}=: it is the accelerator's to decide")
    if accelerator.num_processes > 1:
        raise RunError(
            f"this accelerator has {accelerator.num_processes} processes, and start() works with one",
            why="the order of samples is dealt out by Accelerate there, not by the run",
            do="let rekindle.Run start the processes itself: see docs/integrations.md",
        )
    models, optimizers = accelerator._models, accelerator._optimizers  # noqa: SLF001 - Accelerate's own save_state has no public list either
    if not models and not optimizers:
        raise RunError(
            "the accelerator has prepared nothing yet",
            do="call accelerator.prepare(model, optimizer, loader) before start(accelerator, ...)",
        )
    run = Run(folder, device=accelerator.device, **settings)
    named: dict[str, object] = {}

    def add(base: str, value: object) -> None:
        free = base
        while free in named:
            free = f"{base}_{len([name for name in named if name.startswith(base)]) + 1}"
        named[free] = value

    for model in models:
        add("model", accelerator.unwrap_model(model, keep_torch_compile=False))
    for optimizer in optimizers:
        add("optimizer", optimizer.optimizer)
    for scheduler in accelerator._schedulers:  # noqa: SLF001 - as above
        add("scheduler", scheduler.scheduler)
    if accelerator.scaler is not None:
        add("scaler", accelerator.scaler)
    for value in accelerator._custom_objects:  # noqa: SLF001 - as above
        add("custom", value)
    run.track(**named)
    return run
