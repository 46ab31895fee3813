"""The loaded model is still in training mode."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-29", "load-eval-forgotten", "0.2"
TITLE = "accuracy after loading is lower, or changes from run to run (model.eval() forgotten)"
RAISES = ()
NEEDLES = ()
PATTERNS = ()
OLD: tuple[str, ...] = ()
WHY = (
    "A new model is in training mode, and a state dict does not hold the mode. Dropout then removes values at random and"
    " batch norm normalises with the batch at hand (and updates its averages with it), so that the same input gives other"
    " results each time, and other ones again with another batch size. Call `model.eval()` before inference and"
    " `model.train()` before training goes on."
)
CHECK = "`model.training`; `[name for name, m in model.named_modules() if m.training]`."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


_MAKE = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
torch.save(model.state_dict(), "net.pt")
model.load_state_dict(torch.load("net.pt"))
images = torch.ones(4, 8)
"""
EXAMPLE = f"""{_MAKE}
assert not torch.equal(model(images), model(images))
"""
MENDED = f"""{_MAKE}
model.eval()
assert torch.equal(model(images), model(images))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
