"""Learning-rate schedules with warm-up, as one function on torch's `LambdaLR`.

The factor by which each group's learning rate is multiplied is a function of the number of updates alone, so a restored
schedule goes on to the very bit, and any position can be asked for without walking there.

What is restored is the position. The shape is the script's: a run that is given more epochs gets the longer schedule
from there on, and says so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rekindle.errors import ConfigError

__all__ = ["Schedule", "Shape", "ShapeName", "schedule"]

ShapeName = Literal["cosine", "linear", "step", "constant"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The factor at each update.

    Attributes:
        name: cosine, linear, step or constant.
        total: updates in all, warm-up included.
        warmup: updates during which the factor grows linearly to 1.
        floor: the smallest factor after the warm-up, 0 to 1.
        every, gamma: for ``step``: multiply by gamma after every so many updates.
    """

    name: ShapeName
    total: int
    warmup: int
    floor: float
    every: int
    gamma: float

    def __str__(self) -> str:
        """Return the shape in words: ``cosine over 1,000 updates (100 of warm-up)``."""
        words = f"a step by {self.gamma:g} every {self.every:,} updates" if self.name == "step" else self.name
        if self.name in {"cosine", "linear"}:
            words += f" over {self.total:,} updates"
        details = [f"{self.warmup:,} of warm-up"] * bool(self.warmup) + [f"floor {self.floor:g}"] * bool(self.floor)
        return words + (f" ({', '.join(details)})" if details else "")

    def __call__(self, update: int) -> float:
        """Return the factor for update number `update`, counted from 0."""
        if update < self.warmup:
            return (update + 1) / self.warmup
        if self.name == "constant":
            return 1.0
        if self.name == "step":
            return max(self.floor, self.gamma ** ((update - self.warmup) // self.every))
        part = min(1.0, (update - self.warmup) / max(1, self.total - self.warmup))
        falling = 1.0 - part if self.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * part))
        return self.floor + (1.0 - self.floor) * falling


class Schedule(LambdaLR):
    """A `LambdaLR` that knows its shape; made by `schedule`.

    Attributes:
        shape: of all groups.
        changed_from: in words, the shape that the restored state had, where it is another one; None otherwise.
    """

    def __init__(self, optimizer: Optimizer, shape: Shape) -> None:
        """Start at update 0."""
        self.shape = shape
        self.changed_from: str | None = None
        # A function of its own: LambdaLR would save and restore the attributes of any other callable.
        super().__init__(optimizer, lambda update: shape(update))  # noqa: PLW0108 - as said above

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the shape for comparison."""
        state = super().state_dict()
        state.pop("changed_from")
        return {**state, "shape": asdict(self.shape)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position; the shape stays."""
        saved = Shape(**state_dict["shape"])
        self.changed_from = None if saved == self.shape else str(saved)
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "shape"})


def schedule(
    optimizer: Optimizer,
    name: ShapeName = "cosine",
    *,
    total: int = 0,
    warmup: int = 0,
    floor: float = 0.0,
    every: int = 0,
    gamma: float = 0.1,
) -> Schedule:
    """Return a learning-rate scheduler to be stepped after every update.

    Args:
        optimizer: its groups' learning rates are the peak of the schedule.
        name: ``cosine`` and ``linear`` fall to `floor` at `total`; ``step`` multiplies by `gamma` every `every`
        updates;
            ``constant`` stays.
        total: updates in all, warm-up included; needed by ``cosine`` and ``linear``.
        warmup: updates in which the rate grows linearly; the first one has 1/warmup of it, not 0.
        floor: smallest factor, 0 to 1.
        every: for ``step``; updates.
        gamma: for ``step``; 0 to 1.

    Raises:
        ConfigError: a value that cannot be meant.

    Example:
        scheduler = rk.schedule(optimizer, "cosine", warmup=100, total=10 * len(batches))
    """
    if name not in get_args(ShapeName):
        raise ConfigError(f"no schedule is called {name!r}", why="there are " + ", ".join(get_args(ShapeName)))
    if warmup < 0 or int(warmup) != warmup:
        raise ConfigError(f"warmup is a number of updates, 0 or more, not {warmup!r}")
    if not 0 <= floor <= 1:
        raise ConfigError(f"floor is a factor from 0 to 1, not {floor!r}", why="it multiplies the learning rate")
    if name in {"cosine", "linear"} and (total <= warmup or int(total) != total):
        raise ConfigError(
            f'the "{name}" schedule needs total=, more than warmup={warmup}, not {total!r}',
            why="it has to know at which update it arrives at its floor",
            do=f'rk.schedule(optimizer, "{name}", warmup={warmup}, total=epochs * len(batches))',
        )
    if name == "step" and (every < 1 or int(every) != every):
        raise ConfigError(
            f'the "step" schedule needs every=, at least 1 update, not {every!r}',
            do='rk.schedule(optimizer, "step", every=30 * len(batches), gamma=0.1)',
        )
    if not 0 < gamma <= 1:
        raise ConfigError(f"gamma is a factor from 0 to 1, not {gamma!r}")
    return Schedule(optimizer, Shape(name, int(total), int(warmup), float(floor), int(every), float(gamma)))
