"""ReduceLROnPlateau was stepped without the number it watches."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
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


def explain(event: Event) -> Iterator[Cause]:
    """One cause: the number is missing; a step() of the user's own is left alone."""
    if "ReduceLROnPlateau" not in event.message and event.frames and "sched" not in code_of(event):
        return
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
