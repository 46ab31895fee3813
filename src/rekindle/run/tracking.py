"""What is tracked: taken up by name, restored in place, followed from then on.

Law: an object is restored when it is tracked, into itself; what the snapshot holds and nobody tracked is an error where
the loop is entered, not a loss in silence.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.optim.lr_scheduler import LRScheduler

from rekindle.errors import ConfigError, RunError, StateMismatch
from rekindle.parallel import fsdp as sharding
from rekindle.parallel.ddp import what_is_inexact
from rekindle.run.averages import Average
from rekindle.run.core import Core
from rekindle.run.early_stop import Patience
from rekindle.run.precision import DEFAULT_SCALER
from rekindle.run.schedules import Schedule
from rekindle.run.snapshot import Saved, kind_of_tracked, restore
from rekindle.run.together import adopt_sharded

__all__ = [
    "begin_with_half_weights",
    "free_name",
    "numbered_name",
    "refuse_forgotten",
    "say_inexact",
    "track",
    "track_patience",
    "track_scale",
    "track_scales",
]

# Names of what the run tracks for itself; a dot keeps them apart from any that a script can give.
_SCALER, _STOP_WHEN = "scaler.", "stop_when."


def track(core: Core, objects: Mapping[str, object]) -> None:
    """Have objects saved in every snapshot, and put back what the snapshot holds of them; see `rekindle.Run.track`.

    Raises:
        TypeError: something whose state nobody can ask for.
        StateMismatch: what the snapshot holds does not fit; nothing was changed.
    """
    known = core.tracked.objects
    for name, value in objects.items():
        if kind_of_tracked(value) is None:
            raise TypeError(
                f"run.track({name}=...): {type(value).__name__} has no state_dict and load_state_dict, and is no "
                f"dict, tensor or random generator; plain values go into run.state[{name!r}]"
            )
        if known.get(name, value) is not value:
            raise ValueError(
                f"run.track({name}=...): another object is tracked under this name; give it one of its own"
            )
    new = {name: value for name, value in objects.items() if name not in known}
    if core.tracked.replaced is not None:
        for value in new.values():
            if isinstance(value, torch.optim.Optimizer):
                core.tracked.replaced.adopt(value)
    if core.saved is not None:
        for note in restore(core.saved, new, context={**known, **new}).notes:
            core.note(note)
    known.update(new)
    for value in new.values():
        _follow(core, value)


def refuse_forgotten(core: Core, saved: Saved) -> None:
    """Make sure that all the snapshot holds was tracked.

    Raises:
        StateMismatch: something was not.
    """
    own = (DEFAULT_SCALER, _SCALER, _STOP_WHEN)  # the run's own: a setting changed, and no state is lost
    forgotten = [name for name in saved.names if name not in core.tracked.objects and not name.startswith(own)]
    if forgotten:
        raise StateMismatch(
            f"{', '.join(forgotten)}: in the snapshot of step {saved.step:,}, and not tracked now",
            why="training would go on without that state",
            do=f"track it before the loop: run.track({forgotten[0]}=...)",
        )


def _follow(core: Core, value: object) -> None:
    """Remember optimizers and schedulers, and learn when an optimizer is stepped."""
    tracked = core.tracked
    if isinstance(value, torch.optim.Optimizer):
        tracked.optimizers.append(value)
        value.register_step_post_hook(tracked.stepped.raise_)
        if core.pitfalls is not None:
            core.pitfalls.adopt(value)
    elif isinstance(value, LRScheduler):
        tracked.schedulers.append(value)
        if isinstance(value, Schedule) and value.changed_from is not None:
            core.note(f"the schedule was {value.changed_from} and is {value.shape} from now on")
    elif isinstance(value, Average):
        tracked.averages.append(value)
    elif isinstance(value, torch.nn.parallel.DistributedDataParallel) and core.company is not None:
        core.company.adopt(value)
        say_inexact(core, value)
    elif isinstance(value, torch.nn.Module) and sharding.is_sharded_module(value):
        adopt_sharded(core, value)


def say_inexact(core: Core, model: torch.nn.Module) -> None:
    """Say what of a model's settings makes a resumed run's bits differ."""
    for word in what_is_inexact(model, core.world_size):
        core.note(word, once=True)


# ---- what the run tracks for itself


def track_patience(core: Core, patience: Patience) -> None:
    """Have the end of patience end the run, and what it saw be part of every snapshot; asked again, once is enough.

    Raises:
        ConfigError: the metric has another patience already.
    """
    for known in core.tracked.patience:
        if known.rule != patience.rule:
            continue
        if (known.patience, known.min_delta) == (patience.patience, patience.min_delta):
            return
        raise ConfigError(
            f"run.stop_when({patience.rule.metric!r}) was asked for already, with patience={known.patience}",
            why="one metric has one patience",
            do="call it once, before the loop",
        )
    core.tracked.patience.append(patience)
    _track_own(core, f"{_STOP_WHEN}{patience.rule.mode}:{patience.rule.metric}", patience)


def track_scales(core: Core) -> None:
    """Track the loss scales of float16: the one that losses share, and those that the snapshot has."""
    if not core.updater.scalers:
        return
    _track_own(core, DEFAULT_SCALER, core.updater.scaler)
    for name in () if core.saved is None else core.saved.names:
        if name.startswith(_SCALER):
            _track_own(core, name, core.updater.scaler_named(name))


def track_scale(core: Core, scaler: str | int) -> str:
    """Return the full name of a loss's own scale, tracked from the first time on.

    Raises:
        ConfigError: gradients of two scales cannot be told apart here.
    """
    name = f"{_SCALER}{scaler}"
    if core.updater.scalers and name not in core.tracked.objects:
        _refuse_several_scales(core)
        _track_own(core, name, core.updater.scaler_named(name))
    return name


def _track_own(core: Core, name: str, value: object) -> None:
    """Track something of the run itself; a snapshot that lacks it comes from before it was asked for."""
    if core.saved is None or name in core.saved.names:
        track(core, {name: value})
    else:
        core.tracked.objects[name] = value


def _refuse_several_scales(core: Core) -> None:
    sharded = core.company is not None and bool(core.company.sharded)
    if core.settings.elastic is not None or sharded:
        other = 'elastic="bits"' if core.settings.elastic is not None else 'shard="fsdp"'
        raise ConfigError(
            f"run.backward(loss, scaler=...) and {other} do not go together",
            why="gradients of all losses are added up before they are unscaled",
            do='add the losses: run.backward(loss_a + loss_b), or Run(..., precision="bf16"), which needs no scale',
        )


def begin_with_half_weights(core: Core) -> None:
    """Take the float32 copies of half weights from what the models hold now.

    Raises:
        RunError: the precision makes weights half, and no model was prepared.
    """
    half = core.updater.weights
    if half is None:
        return
    if not half.any_model:
        raise RunError(
            f"precision {core.updater.precision} makes weights half in run.prepare, and no model was prepared",
            do="model, optimizer = run.prepare(model, optimizer)",
        )
    changed = half.begin()
    if changed:
        core.note(f"{changed} weights were loaded after run.prepare; their float32 copies were taken from them")


# ---- names


def free_name(core: Core, value: object) -> str:
    """Return the name that `run.prepare` tracks a value under: ``model``, ``model_2``..."""
    if isinstance(value, Average):
        base = "average"
    elif isinstance(value, torch.nn.Module):
        base = "model"
    elif isinstance(value, torch.optim.Optimizer):
        base = "optimizer"
    elif isinstance(value, LRScheduler):
        base = "scheduler"
    else:
        base = type(value).__name__.lower()
    return numbered_name(core, base)


def numbered_name(core: Core, base: str) -> str:
    """Return a name, with a number from the second of its kind on."""
    number = core.tracked.prepared[base] = core.tracked.prepared.get(base, 0) + 1
    return base if number == 1 else f"{base}_{number}"
