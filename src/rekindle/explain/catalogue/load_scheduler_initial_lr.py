"""A scheduler was built with `last_epoch` for an optimizer that never had one."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-24", "load-scheduler-initial-lr", "0.2"
TITLE = "KeyError: param 'initial_lr' is not specified in param_groups[0] when resuming an optimizer"
RAISES = ("KeyError",)
NEEDLES = ("'initial_lr",)
PATTERNS = (r"param \\?'initial_lr\\?' is not specified in param_groups\[(?P<group>\d+)\]",)
OLD = ("KeyError: \"param 'initial_lr' is not specified in param_groups[0] when resuming an optimizer\"",)
WHY = (
    "With `last_epoch=N` a scheduler takes for granted that the optimizer comes from a checkpoint in which the first"
    " scheduler left `initial_lr`. A fresh optimizer has none. And `last_epoch` alone would restore little: warm restarts,"
    " plateau counters and base rates are in the scheduler's own state."
)
CHECK = "`'initial_lr' in optimizer.param_groups[0]`."


def explain(event: Event) -> Iterator[Cause]:
    """With the epoch that was asked for, where it is known."""
    asked = event.live.find_plain("last_epoch") if event.live else None
    epoch = f"last_epoch={asked}" if isinstance(asked, int) else "last_epoch"
    yield Cause(
        CODE,
        NAME,
        what=f"a scheduler was built with {epoch} for a fresh optimizer (group {event.facts['group']} has no initial_lr)",
        why="last_epoch is for an optimizer whose state was loaded; this one starts new, so that there is nothing to go on from",
        fix=(
            (
                'optimizer.load_state_dict(checkpoint["optimizer"]); scheduler.load_state_dict(checkpoint["scheduler"])'
                "   # after building both without last_epoch, as at the first start"
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, last_epoch=5)
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
checkpoint = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}

optimizer.load_state_dict(checkpoint["optimizer"])
scheduler.load_state_dict(checkpoint["scheduler"])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
