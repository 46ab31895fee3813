"""A OneCycleLR was stepped more often than it was made for."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-19", "opt-scheduler-total-steps", "0.2"
TITLE = "ValueError: Tried to step 4 times. The specified number of total steps is 3"
RAISES = ("ValueError",)
NEEDLES = ("Tried to step ",)
PATTERNS = (r"Tried to step (?P<step>\d+) times\. The specified number of total steps is (?P<total>\d+)",)
OLD: tuple[str, ...] = ()
WHY = "`OneCycleLR` is one curve of a fixed number of steps: `total_steps`, or `epochs * steps_per_epoch`. It is stepped once a batch, not once an epoch. After a resume its `state_dict` goes on with the old count, so that more epochs need a new schedule."
CHECK = "`scheduler.total_steps`, `len(loader) * epochs`, and how often `scheduler.step()` is called."


def explain(event: Event) -> Iterator[Cause]:
    """Both counts, and what they are made of."""
    step, total = event.facts["step"], event.facts["total"]
    yield Cause(
        CODE,
        NAME,
        what=f"the schedule has {total} steps and was asked for step {step}",
        why="total_steps is too small: epochs * len(loader) without the last, shorter batch, a scheduler of epochs that is stepped each batch, or more epochs after a resume than it was made for",
        fix=(
            "OneCycleLR(optimizer, max_lr, epochs=epochs, steps_per_epoch=len(loader))   # stepped once a batch",
            "OneCycleLR(optimizer, max_lr, total_steps=more)   # after a resume with more epochs: a new one, without its old state_dict",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3)
for _ in range(4):
    optimizer.step()
    scheduler.step()
"""
MENDED = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
for _ in range(4):
    optimizer.step()
    scheduler.step()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
