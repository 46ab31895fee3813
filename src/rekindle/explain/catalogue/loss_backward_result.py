"""The result of backward() is kept as the loss, and it is None."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-15", "loss-backward-result", "0.2"
TITLE = "AttributeError: 'NoneType' object has no attribute 'item' (loss = criterion(...).backward())"
RAISES = ("AttributeError",)
NEEDLES = ("'NoneType' object has no attribute 'item'", "'NoneType' object has no attribute 'backward'")
PATTERNS = (r"'NoneType' object has no attribute '(?P<name>item|backward|detach|mean|sum)'",)
OLD: tuple[str, ...] = ()
WHY = "`backward()` fills the gradients and gives back nothing. In `loss = criterion(output, target).backward()` the loss is gone; so it is where a function of one's own computes a loss and has no `return`."
CHECK = "`print(type(loss))` in front of the line; the line where `loss` is assigned."
_LOSS = re.compile(
    r"\b(\w*(?:loss|cost|criterion)\w*)(?:\[[^\]\n]{0,40}\])?\.(?:item|backward|detach|mean|sum)\(", re.IGNORECASE
)


def explain(event: Event) -> Iterator[Cause]:
    """Only where the line says it of something that is called a loss."""
    found = _LOSS.search(code_of(event))
    if not found:
        return
    name = found[1]
    frame = event.live.user_frame if event.live else None
    is_none = frame is not None and name in frame.plain and frame.plain[name] is None
    yield Cause(
        CODE,
        NAME,
        what=f"{name} is None",
        why="it holds the result of backward(), which gives back nothing, or of a function without a return",
        fix=(
            f"{name} = criterion(output, target)",
            f"{name}.backward()   # on a line of its own",
            "return loss   # at the end of a function that computes it",
        ),
        likelihood="certain" if is_none else "likely",
    )


EXAMPLE = """
import torch
from torch import nn

model, criterion = nn.Linear(2, 1), nn.MSELoss()
loss = criterion(model(torch.ones(4, 2)), torch.zeros(4, 1)).backward()
print(loss.item())
"""
MENDED = """
import torch
from torch import nn

model, criterion = nn.Linear(2, 1), nn.MSELoss()
loss = criterion(model(torch.ones(4, 2)), torch.zeros(4, 1))
loss.backward()
print(loss.item())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
