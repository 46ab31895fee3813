"""A run around an Accelerate loop: everything that was prepared is tracked, and the loop gets its place back.

An Accelerate loop is the user's own, so it can be exact like any other: `start` returns a `rekindle.Run` that knows
what the accelerator has prepared. The loop goes over `run.epochs` and `run.batches`, and says `run.step()` after each
update.

*On several processes* the accelerator has made the process group, and the run joins it: rank 0 writes, all agree when
to leave, and one that dies ends the others. Models that Accelerate has wrapped in `DistributedDataParallel` lay out
their gradient buckets once and for good. A prepared loader shuffles with a generator that is seeded when it is made,
and so anew in each life; here its order becomes a function of (seed, loader, epoch).
"""

from __future__ import annotations

import gc
import os
from functools import partial
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.nn.parallel import DistributedDataParallel

from rekindle.errors import RunError
from rekindle.run.loop import Run
from rekindle.run.randomness import key_of

__all__ = ["start"]

# Where each process has a part of the state that only the other library can put together.
_OTHERS_OWN = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM, DistributedType.XLA)


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
        RunError: nothing was prepared, or it trains with DeepSpeed, FSDP, Megatron-LM or XLA.
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
    _refuse_others_own(accelerator)
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
        add("model", _to_track(accelerator, model))
    for optimizer in optimizers:
        add("optimizer", optimizer.optimizer)
    for scheduler in accelerator._schedulers:  # noqa: SLF001 - as above
        add("scheduler", scheduler.scheduler)
    if accelerator.scaler is not None:
        add("scaler", accelerator.scaler)
    for value in accelerator._custom_objects:  # noqa: SLF001 - as above
        add("custom", value)
    run.track(**named)
    _order_by_epoch(accelerator, run)
    return run


def _refuse_others_own(accelerator: Accelerator) -> None:
    if accelerator.distributed_type in _OTHERS_OWN:
        raise RunError(
            f"this accelerator trains with {accelerator.distributed_type.value}, and start() works with DDP",
            why="each process has a part of the state, in a layout of the library's own",
            do='use DDP, or a loop of your own with run.prepare(model, optimizer, shard="fsdp")',
        )


def _to_track(accelerator: Accelerator, model: Any) -> torch.nn.Module:
    """Return a DDP model with its wrapper, which the run has to know of; of any other, the model itself.

    Accelerate lists models as they were before it wrapped them, and hands the wrapper to the script only.
    """
    inner: torch.nn.Module = accelerator.unwrap_model(model, keep_torch_compile=False)
    if accelerator.num_processes > 1:
        for found in gc.get_objects():  # once, some hundred milliseconds at most
            if issubclass(type(found), DistributedDataParallel):
                module = getattr(found, "module", None)
                if module is inner or getattr(module, "_orig_mod", None) is inner:
                    return cast("torch.nn.Module", found)
    return inner


def _order_by_epoch(accelerator: Accelerator, run: Run) -> None:
    """Have what prepared loaders shuffle with be a function of (seed, loader, epoch), the same in every process.

    Each of them begins a pass by telling its sampler the number of the pass, counted in this life.
    """
    for number, loader in enumerate(accelerator._dataloaders):  # noqa: SLF001 - as in `start`
        loader.iteration = run.epoch
        batches = getattr(loader, "batch_sampler", None)
        sampler: Any = getattr(getattr(batches, "batch_sampler", batches), "sampler", None)
        generator = getattr(sampler, "generator", None)
        if hasattr(sampler, "initial_seed"):  # Accelerate's own seedable sampler adds the epoch to it
            sampler.initial_seed = _seed_of(run, number, 0)
        elif isinstance(generator, torch.Generator) and not hasattr(sampler, "set_epoch"):
            sampler.set_epoch = partial(_reseed, generator, run, number)


def _reseed(generator: torch.Generator, run: Run, number: int, epoch: int) -> None:
    generator.manual_seed(_seed_of(run, number, epoch))


def _seed_of(run: Run, number: int, epoch: int) -> int:
    return key_of(run.seed, "order", number, epoch) % 2**62
