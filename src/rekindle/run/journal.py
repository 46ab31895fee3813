"""What a run logs: a line of ``metrics.jsonl``, TensorBoard's events, and the news for whoever waits for a metric.

Law: what was logged before the place that the run goes on from is not logged again, and nothing is cut before
everything was restored. Of several processes rank 0 writes, what all of them gave.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from rekindle.errors import RunError
from rekindle.run.core import Core, Logs
from rekindle.run.log import Elsewhere, EventFiles, MetricsFile, plain_value
from rekindle.store.layout import METRICS_NAME, TENSORBOARD_NAME

__all__ = ["cut_back", "log", "logs_elsewhere", "logs_of", "saying_what_went"]

# As `plain_value` writes them.
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def logs_of(folder: str, *, tensorboard: bool | None) -> Logs:
    """Return the log files of a run's folder; `tensorboard` as of `rekindle.Run`."""
    metrics = MetricsFile(os.path.join(folder, METRICS_NAME))
    return Logs(metrics, EventFiles(os.path.join(folder, TENSORBOARD_NAME), wanted=tensorboard))


def logs_elsewhere() -> Logs:
    """Return what stands for them in the processes that do not write them."""
    return Logs(Elsewhere(), Elsewhere())


def cut_back(core: Core) -> None:
    """Cut the files back to what the snapshot vouches for, or all of them where no life has saved anything."""
    metrics, events = core.logs.vouched
    word = core.logs.metrics.cut(metrics)
    if word is not None:
        core.note(word)
    core.logs.events.cut(events)


@contextlib.contextmanager
def saying_what_went(core: Core) -> Iterator[None]:
    """Have an error of the log files say that the run's folder was moved or deleted, where that is why.

    Raises:
        RunError: it was.
        OSError: anything else.
    """
    try:
        yield
    except OSError as error:
        try:
            core.lock.require()
        except RunError as gone:
            raise gone from error
        raise


def log(core: Core, values: Mapping[str, Any]) -> None:
    """Write one line; see `rekindle.Run.log`."""
    plain = {name: plain_value(name, value) for name, value in values.items()}
    if core.saved is not None and (not core.begun or core.places.replaying):
        return
    if core.company is not None:
        values = core.company.logged(core.steps_done, values)
        plain = {name: plain_value(name, value) for name, value in values.items()}
    _say_odd(core, values, plain)
    _say_taken(core, plain)
    core.logs.heard.update(plain)
    line = {**{name: rate for name, rate in _rates(core).items() if name not in plain}, **plain}
    if core.updater.scalers:
        line.setdefault("skipped_steps", core.updater.skipped)
    with saying_what_went(core):
        core.logs.metrics.write(core.steps_done, core.epoch, line)
        core.logs.events.write(core.steps_done, line)
    core.saver.offer_best(plain)
    for known in core.tracked.patience:
        value = plain.get(known.rule.metric)
        if isinstance(value, (int, float)) or (value in _NOT_FINITE and known.rule.metric in plain):
            known.offer(float(value))


def _say_odd(core: Core, values: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
    """Say once of each metric that it is not finite."""
    for name, value in plain.items():
        if value in _NOT_FINITE and not isinstance(values[name], str) and name not in core.logs.odd:
            core.logs.odd.add(name)
            core.note(f"run.log: {name} is {value} after step {core.steps_done:,}; said once")


def _say_taken(core: Core, plain: Mapping[str, Any]) -> None:
    """Say once that a line has a step and an epoch of its own, where others were given."""
    for name, own in (("step", core.steps_done), ("epoch", core.epoch)):
        if name in plain and plain[name] != own:
            word = f"run.log({name}=...) is left out: a line has the run's own {name}; give yours another name"
            core.note(word, once=True)


def _rates(core: Core) -> dict[str, float]:
    """Return the learning rates, as they are logged: ``lr``, or one per optimizer and group."""
    found: dict[str, float] = {}
    optimizers = core.tracked.optimizers
    for optimizer in optimizers:
        name = "lr"
        if len(optimizers) > 1:
            name += "_" + next(known for known, value in core.tracked.objects.items() if value is optimizer)
        for number, group in enumerate(optimizer.param_groups):
            found[name if number == 0 else f"{name}_{number}"] = float(group["lr"])
    return found
