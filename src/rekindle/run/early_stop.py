"""Ending a run that no longer gets better, and one whose time is over.

`Patience` counts the values of a metric since its best one. It is tracked like an optimizer, so that a resumed run has
the patience that it had left. `TimeLimit` knows when the process will be ended from outside, and how long it takes from
one boundary to the next, so that the last snapshot is written before that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from rekindle.errors import ConfigError
from rekindle.run.policy import BestRule, parse_seconds

__all__ = ["Patience", "TimeLimit", "time_limit"]

_SLURM_END = "SLURM_JOB_END_TIME"  # seconds since 1970; set in jobs by Slurm 23.02 and later
_LOADED_AT = time.monotonic()


class Patience:
    """How long a metric has not been better.

    Args:
        rule: which metric, and whether larger or smaller is better.
        patience: values without a better one that end the run.
        min_delta: by how much a value must be better to count.

    Attributes:
        best: the best value so far.
        since: values since then.
    """

    def __init__(self, rule: BestRule, patience: int, min_delta: float) -> None:
        """Nothing was seen yet."""
        self.rule, self.patience, self.min_delta = rule, patience, min_delta
        self.best: float | None = None
        self.since = 0

    @property
    def is_over(self) -> bool:
        """Whether the run should end."""
        return self.since >= self.patience

    def offer(self, value: float) -> None:
        """Look at the next value; NaN is never better."""
        asked = self.min_delta if self.rule.mode == "max" else -self.min_delta
        if self.rule.improves(value, None if self.best is None else self.best + asked):
            self.best, self.since = value, 0
        else:
            self.since += 1

    def __str__(self) -> str:
        """Say what was waited for: ``val_loss was not better than 0.21 for 3 values``."""
        best = "a number" if self.best is None else f"better than {self.best:g}"
        return f"{self.rule.metric} was not {best} for {self.since} values"

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen."""
        return {"best": self.best, "since": self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was seen."""
        self.best, self.since = state["best"], state["since"]


class TimeLimit:
    """The end of a process's time, and whether it is near.

    Args:
        ends_in_s: seconds from now.
        reserve_s: seconds for the last snapshot.
        clock: seconds that never go back; tests give their own.
    """

    def __init__(self, ends_in_s: float, reserve_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting."""
        self._clock = clock
        self._ends_at = clock() + ends_in_s - reserve_s
        self._last: float | None = None
        self._longest = 0.0

    def is_near(self) -> bool:
        """Tell, once per boundary, whether the next one may come too late.

        The longest time between two boundaries of this life, evaluations and snapshots included, is how long the next
        may take. The first boundary does not count: starting workers and compiling happen once.
        """
        now = self._clock()
        if self._last is not None:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        return now + 1.5 * self._longest >= self._ends_at

    def left_s(self) -> float:
        """Return the seconds that are left for boundaries."""
        return self._ends_at - self._clock()


def time_limit(text: str | None) -> TimeLimit | None:
    """Return the limit that ``"2 hours"`` or ``"slurm"`` means for this process; None for none.

    A time counts from the start of the process. Where Slurm says when the job ends, and that is earlier, it is taken.

    Raises:
        ConfigError: it is neither, or Slurm does not say.
    """
    if text is None:
        return None
    slurm = _slurm_left_s()
    if text == "slurm":
        if slurm is None:
            raise ConfigError(
                f'time_limit="slurm", and {_SLURM_END} is not set',
                why="this is no Slurm job, or its Slurm is older than 23.02",
                do='name the time: Run(..., time_limit="2 hours"), or have Slurm signal: #SBATCH --signal=USR1@300',
            )
        return TimeLimit(slurm, min(60.0, 0.05 * max(0.0, slurm)))
    whole = parse_seconds(text)
    if whole is None:
        raise ConfigError(
            f"time_limit={text!r} is not a time",
            why="it is a number with a unit: seconds, minutes or hours",
            do='Run(..., time_limit="2 hours"), or time_limit="slurm" for the end of the job',
        )
    left = whole - process_age_s()
    return TimeLimit(left if slurm is None else min(left, slurm), min(60.0, 0.05 * whole))


def process_age_s() -> float:
    """Return the seconds since this process began; since this module was loaded where the system does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # Field 22, counted behind the name in parentheses: start in clock ticks since boot (proc(5)).
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic() - _LOADED_AT


def _slurm_left_s() -> float | None:
    text = os.environ.get(_SLURM_END, "")
    return int(text) - time.time() if text.isdecimal() else None
