"""The state of the gradient scaler is not in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-AMP-02", "amp-checkpoint-scaler", "0.2"
TITLE = "after a resume the loss scale starts again at 65536 (GradScaler not saved)"
RAISES = ()
NEEDLES = ()
PATTERNS = ()
OLD: tuple[str, ...] = ()
WHY = (
    "The scaler finds its scale while training: it halves it at each overflow and doubles it after 2,000 steps without one. A"
    " checkpoint without it starts again at 65536: the first steps after a resume overflow, are skipped by the optimizer, and the"
    " run is not the one that was interrupted. `rekindle.Run` keeps the scaler with everything else; with bfloat16 there is none."
)
CHECK = "`rekindle inspect last.pt`: is there a `scaler` with a `scale` in it?"


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


_MAKE = """
import torch
from torch import nn

def build():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, torch.amp.GradScaler("cpu")

model, optimizer, scaler = build()
scaler.scale(model(torch.full((1, 2), torch.inf)).sum()).backward()
scaler.step(optimizer)  # skipped: the gradients overflowed
scaler.update()
assert scaler.get_scale() == 32768
"""
EXAMPLE = f"""{_MAKE}
torch.save({{"model": model.state_dict(), "optimizer": optimizer.state_dict()}}, "last.pt")

model, optimizer, scaler = build()
state = torch.load("last.pt")
model.load_state_dict(state["model"])
optimizer.load_state_dict(state["optimizer"])
scaler.scale(torch.ones(1))
assert scaler.get_scale() == 65536  # from the beginning
"""
MENDED = f"""{_MAKE}
torch.save(
    {{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}}, "last.pt"
)

model, optimizer, scaler = build()
state = torch.load("last.pt")
model.load_state_dict(state["model"])
optimizer.load_state_dict(state["optimizer"])
scaler.load_state_dict(state["scaler"])
scaler.scale(torch.ones(1))
assert scaler.get_scale() == 32768
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
