"""`run.prepare`: models brought to the device, made half, sharded or wrapped, and tracked.

What is tracked is the model itself, never a wrapper around it, so a snapshot's keys do not know how many processes
there were.

Law: objects come back in the order in which they were given, and the same calls give the same names in every life.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from rekindle.devices.move import to_device
from rekindle.errors import ConfigError
from rekindle.parallel import fsdp as sharding
from rekindle.parallel.rates import scale_rates
from rekindle.run.averages import Average
from rekindle.run.core import Core
from rekindle.run.loader import Loader
from rekindle.run.randomness import key_of, preserved, seed_globals
from rekindle.run.together import save_in_parts
from rekindle.run.tracked import names_of_parameters
from rekindle.run.tracking import free_name, numbered_name, say_inexact, track

__all__ = ["LrRule", "ShardWay", "prepare"]

LrRule = Literal["linear", "sqrt"] | None
ShardWay = Literal["fsdp"] | None

_MASTERS = "master_weights"


def prepare(
    core: Core,
    objects: tuple[Any, ...],
    *,
    shard: ShardWay,
    ddp: Mapping[str, Any] | None,
    fsdp: Mapping[str, Any] | None,
    lr_rule: LrRule,
) -> tuple[Any, ...]:
    """Return the objects ready to train with; arguments as of `rekindle.Run.prepare`.

    Raises:
        TypeError, StateMismatch: as of `rekindle.run.tracking.track`.
        ConfigError: a setting that cannot be meant.
    """
    if shard is not None or fsdp is not None:
        _shard(core, objects, shard, fsdp)
    ready: list[Any] = []
    named: dict[str, object] = {}
    half = core.updater.weights
    for value in objects:
        if isinstance(value, (Loader, torch.utils.data.DataLoader)):
            ready.append(value)
            continue
        inner = value.module if isinstance(value, Average) else value
        moves = isinstance(value, torch.nn.Module) and not sharding.is_sharded_module(inner)
        ready.append(to_device(value, core.device) if moves else value)
        if half is not None and isinstance(value, torch.nn.Module) and not isinstance(value, Average):
            half.cast(value)  # `to_device` moves modules in place
        known = next((name for name, old in {**core.tracked.objects, **named}.items() if old is value), None)
        named[known or free_name(core, value)] = ready[-1]
    core.moves_batches = core.device.type != "cpu"
    masters = _masters(core, named)
    track(core, {**named, **masters})
    if lr_rule is not None:
        _scale_rates(core, lr_rule, [*named.values(), *masters.values()])
    if core.company is not None or core.settings.elastic is not None:
        ready = [_shared_out(core, value, ddp or {}) for value in ready]
    if core.company is not None:
        for own in masters.values():  # made from this process's weights, and of those only rank 0's count
            core.company.same_tensors(own.values())
    return tuple(ready)


def _masters(core: Core, named: Mapping[str, object]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the float32 copies of half weights that the optimizers among these were given, under a name."""
    half = core.updater.weights
    if half is None:
        return {}
    names = names_of_parameters({**core.tracked.objects, **named})
    optimizers = [value for value in named.values() if isinstance(value, torch.optim.Optimizer)]
    masters = {name: master for each in optimizers for name, master in half.adopt(each, names).items()}
    return {numbered_name(core, _MASTERS): masters} if masters else {}


def _shared_out(core: Core, value: Any, settings: Mapping[str, Any]) -> Any:
    """Return a model as all processes train it together; anything else as it is."""
    if not isinstance(value, torch.nn.Module):
        return value
    company, elastic = core.company, core.settings.elastic
    if elastic is not None and not isinstance(value, Average):
        elastic.add(value)
        return value
    if company is None or isinstance(value, Average):
        sharded = isinstance(value, Average) and sharding.is_sharded_module(value.module)
        return value if company is None or sharded else company.same(value)
    ready = company.wrap(value, core.device, settings)
    say_inexact(core, ready)
    return ready


def _scale_rates(core: Core, rule: LrRule, prepared: list[object]) -> None:
    """Scale learning rates by the number of processes, or by what it changed since the snapshot."""
    if rule not in {"linear", "sqrt"}:
        raise ConfigError(f'lr_rule={rule!r} is not "linear" or "sqrt"')
    ratio = core.world_size / core.ranks_before
    factor = ratio if rule == "linear" else math.sqrt(ratio)
    if factor != 1:
        scale_rates(factor, prepared)
        core.note(f"lr_rule: learning rates times {factor:.4g}, for {core.world_size} processes")


# ---- sharding


def _shard(core: Core, objects: tuple[Any, ...], way: ShardWay, settings: Mapping[str, Any] | None) -> None:
    """Cut models in place, with the averages of them, and have each process save what it has."""
    _require_shardable(core, way)
    company = core.company
    modules = [value for value in objects if isinstance(value, torch.nn.Module)]
    replaced = core.tracked.replaced = core.tracked.replaced or sharding.Repointed()
    if company is None:
        core.note('shard="fsdp": one process, so there is nothing to share out', once=True)
        for model in modules:
            before = dict(model.named_parameters(remove_duplicate=False))
            with preserved():
                sharding.make_values(model, model, core.device, lambda number: _seed_for_weights(core.seed, number))
            replaced.note(before, dict(model.named_parameters(remove_duplicate=False)))
        return
    for model in sorted(modules, key=lambda value: isinstance(value, Average)):
        if sharding.is_sharded_module(model):
            continue
        inner = model.module if isinstance(model, Average) else model
        before = dict(model.named_parameters(remove_duplicate=False))
        with preserved():
            sharding.shard(
                inner,
                core.device,
                settings or {},
                half=core.updater.half,
                seed_for=lambda number: _seed_for_weights(core.seed, number),
                restored=core.saved is not None,
            )
        replaced.note(before, dict(model.named_parameters(remove_duplicate=False)))
        company.sharded.append(inner)
    for optimizer in core.tracked.optimizers:
        replaced.adopt(optimizer)
    save_in_parts(core, company)


def _require_shardable(core: Core, way: ShardWay) -> None:
    if way != "fsdp":
        raise ConfigError(
            f"run.prepare(shard={way!r}) is not known" if way is not None else "run.prepare(fsdp=...) without shard",
            do='run.prepare(model, optimizer, shard="fsdp")',
        )
    elastic = core.settings.elastic is not None
    if elastic or core.updater.weights is not None:
        other = 'elastic="bits"' if elastic else f'precision="{core.updater.precision}"'
        raise ConfigError(
            f'shard="fsdp" and {other} do not go together',
            why="sharded gradients are added up by torch, in its own order"
            if elastic
            else "sharded weights stay float32, and are gathered in half precision",
            do="leave one of them out" if elastic else 'Run(..., precision="bf16")',
        )


def _seed_for_weights(seed: int, number: int) -> None:
    seed_globals(key_of(seed, "weights", number))
