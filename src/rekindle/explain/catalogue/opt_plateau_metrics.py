"""ReduceLROnPlateau was stepped without the number it watches."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-20", "opt-plateau-metrics", "0.2"
TITLE = "TypeError: ReduceLROnPlateau.step() missing 1 required positional argument: 'metrics'"
RAISES = ("TypeError",)
NEEDLES = ("argument: 'metrics'",)
PATTERNS = (r"step\(\) missing 1 required positional argument: 'metrics'",)
OLD: tuple[str, ...] = ("TypeError: step() missing 1 required positional argument: 'metrics'",)
WHY = "Other schedulers count; `ReduceLROnPlateau` lowers the rate when a number stops getting better, so that `step` has to be given that number, once an epoch."
CHECK = "`type(scheduler)`."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - the message says all of it
    """One cause: the number is missing."""
    yield Cause(
        CODE,
        NAME,
        what="ReduceLROnPlateau.step() was called without the number that it watches",
        why="it lowers the rate when that number stops getting better, and does not count steps",
        fix=("scheduler.step(validation_loss)   # once an epoch, after the validation",),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
optimizer.step()
scheduler.step()
"""
MENDED = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
optimizer.step()
scheduler.step(0.5)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
