"""The scheduler's state is not restored by setting `last_epoch`."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-25", "load-scheduler-last-epoch", "0.2"
TITLE = "learning rate is wrong after resuming (scheduler.last_epoch = start_epoch)"
RAISES = ()
NEEDLES = ()
PATTERNS = ()
OLD: tuple[str, ...] = ()
WHY = (
    "`scheduler.last_epoch = N` sets a number and nothing else. Most schedulers compute the next rate from the present one,"
    " so that a fresh optimizer goes on from its full rate; cycles, warm restarts and plateau counters begin again. Nothing"
    " is raised: training goes on with another rate. Save `scheduler.state_dict()` beside the optimizer's and load both."
)
CHECK = "Print `scheduler.get_last_lr()` before the crash and after the resume; `rekindle inspect FILE --tree` shows whether the scheduler was saved."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


_MAKE = """
import torch
from torch import nn

def built():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.1)

optimizer, scheduler = built()
for epoch in range(15):
    optimizer.step()
    scheduler.step()
saved = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
"""
EXAMPLE = f"""{_MAKE}
optimizer, scheduler = built()
scheduler.last_epoch = 15
optimizer.step()
scheduler.step()
assert scheduler.get_last_lr() == [0.1]  # ten times the rate of the run that was interrupted
"""
MENDED = f"""{_MAKE}
optimizer, scheduler = built()
optimizer.load_state_dict(saved["optimizer"])
scheduler.load_state_dict(saved["scheduler"])
optimizer.step()
scheduler.step()
assert abs(scheduler.get_last_lr()[0] - 0.01) < 1e-9
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
