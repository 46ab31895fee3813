"""A scheduler was stepped before its optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-21", "opt-scheduler-before-optimizer", "0.2"
TITLE = "Detected call of `lr_scheduler.step()` before `optimizer.step()`"
RAISES = ()
NEEDLES = ("Detected call of `lr_scheduler.step()` before",)
PATTERNS = (r"Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`",)
OLD: tuple[str, ...] = ()
WHY = "The scheduler sets the rate of the next step. Called first, it skips the first value of its schedule. With a `GradScaler` the very first `optimizer.step()` may be skipped because of infinite gradients: then the warning says nothing bad."
CHECK = "The order of both lines in the loop."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - the message says all of it
    """The order; mixed precision may be the reason too."""
    yield Cause(
        CODE,
        NAME,
        what="scheduler.step() ran before the first optimizer.step()",
        why="the first rate of the schedule is skipped; with a GradScaler it may be harmless: the first step was skipped for infinite gradients",
        fix=("optimizer.step(); scheduler.step()   # in this order",),
    )


EXAMPLE = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
scheduler.step()
optimizer.step()
"""
MENDED = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
optimizer.step()
scheduler.step()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
