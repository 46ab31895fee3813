"""When to save and what to keep, as a run's settings say it in words."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Literal

from rekindle.errors import ConfigError

__all__ = ["Best", "BestRule", "SaveEvery", "parse_best", "parse_save_every", "parse_seconds", "parse_when_busy"]

_EVERY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)?\s*([a-z]+)\s*", re.IGNORECASE)
_SECONDS = {"second": 1, "seconds": 1, "sec": 1, "s": 1, "minute": 60, "minutes": 60, "min": 60, "hour": 3600}
_SECONDS |= {"hours": 3600, "h": 3600}


@dataclass(frozen=True, slots=True)
class SaveEvery:
    """How often to save; one of the three is set, or none ("only at the end, or when asked").

    Attributes:
        steps: optimizer updates.
        seconds: of wall time.
        epochs: at their ends.
    """

    steps: int | None = None
    seconds: float | None = None
    epochs: int | None = None


def parse_save_every(text: str | None) -> SaveEvery:
    """Return how often ``"200 steps"``, ``"5 minutes"`` or ``"1 epoch"`` is.

    The variable REKINDLE_SAVE_EVERY, which `rekindle prove` sets, goes before the argument.

    Raises:
        ConfigError: it is none of these.
    """
    text = os.environ.get("REKINDLE_SAVE_EVERY") or text
    if text is None:
        return SaveEvery()
    found = _EVERY.fullmatch(text) if isinstance(text, str) else None
    count = float(found[1] or 1) if found else 0.0
    unit = found[2].lower() if found else ""
    if count > 0:
        if unit in {"step", "steps", "epoch", "epochs"} and count == int(count):
            return SaveEvery(steps=int(count)) if unit.startswith("step") else SaveEvery(epochs=int(count))
        if unit in _SECONDS:
            return SaveEvery(seconds=count * _SECONDS[unit])
    raise ConfigError(
        f"save_every={text!r} is not a time between two saves",
        why="it is a number with a unit: steps, epochs, seconds, minutes or hours",
        do='save_every="200 steps", "5 minutes" or "1 epoch"',
    )


def parse_seconds(text: object) -> float | None:
    """Return the seconds of ``"90 s"``, ``"5 minutes"`` or ``"2 hours"``; None for anything else."""
    found = _EVERY.fullmatch(text) if isinstance(text, str) else None
    seconds = float(found[1] or 1) * _SECONDS.get(found[2].lower(), 0) if found else 0.0
    return seconds or None


@dataclass(frozen=True, slots=True)
class Best:
    """The best snapshot so far.

    Attributes:
        value: of the metric.
        step: optimizer updates done when it was taken.
        path: its folder; None where it is no longer there.
    """

    value: float
    step: int
    path: str | None = None


@dataclass(frozen=True, slots=True)
class BestRule:
    """Which snapshot is the best.

    Attributes:
        metric: a name given to `run.log`.
        mode: whether larger or smaller values are better.
    """

    metric: str
    mode: Literal["max", "min"]

    def improves(self, value: float, best: float | None) -> bool:
        """Tell whether `value` is better than `best`; NaN never is, equal is not."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best if self.mode == "max" else value < best


def parse_best(text: str | None, mode: str | None = None) -> BestRule | None:
    """Return the rule that ``"val_accuracy"`` (largest), ``"min:val_loss"`` or a mode of its own means.

    Raises:
        ConfigError: the mode is not ``max`` or ``min``, or there is no name.
    """
    if text is None:
        return None
    before, colon, after = str(text).partition(":")
    metric, chosen = (after, before) if colon else (text, mode or "max")
    if colon and mode is not None and mode != before:
        chosen = ""
    if not metric.strip() or chosen not in {"max", "min"}:
        raise ConfigError(
            f"keep_best={text!r}" + (f", keep_best_mode={mode!r}" if mode is not None else "") + " is not a rule",
            why="it is the name of a metric given to run.log, with min: before it where smaller is better",
            do='keep_best="val_accuracy", or keep_best="min:val_loss"',
        )
    return BestRule(metric.strip(), "max" if chosen == "max" else "min")


def parse_when_busy(text: str) -> Literal["wait", "skip"]:
    """Return what a save does that is due while the one before is still being written.

    Raises:
        ConfigError: it is neither ``wait`` nor ``skip``.
    """
    match text:
        case "wait" | "skip":
            return text
    raise ConfigError(
        f"when_busy={text!r} is not known",
        why='a save that is due while the one before is still being written waits for it ("wait") or is left out',
        do='when_busy="wait" or when_busy="skip"',
    )
