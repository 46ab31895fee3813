"""eval() and no_grad() do different things, and evaluation needs both."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-16", "no-grad-vs-eval", "0.2"
TITLE = "evaluation needs much memory or gives other results each time (model.eval() and torch.no_grad())"
OLD: tuple[str, ...] = ()
RAISES = ()
NEEDLES = ()
PATTERNS = ()
WHY = (
    "`model.eval()` changes what dropout and batch norm compute; it does not stop the recording of gradients.  `torch.no_grad()`"
    " stops the recording, which saves memory and time; it does not change what layers compute. Evaluation needs both:"
    " `model.eval()` and `with torch.inference_mode():`, and `model.train()` afterwards."
).replace("  ", " ")
CHECK = "In the code that evaluates: `model.training`, `torch.is_grad_enabled()`, `output.requires_grad`."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


_MAKE = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
images = torch.ones(4, 8)
"""
EXAMPLE = f"""{_MAKE}
model.eval()
assert model(images).requires_grad  # the graph is recorded, and kept as long as the output is
model.train()
with torch.no_grad():
    assert not torch.equal(model(images), model(images))  # dropout is on
"""
MENDED = f"""{_MAKE}
model.eval()
with torch.inference_mode():
    assert torch.equal(model(images), model(images))
    assert not model(images).requires_grad
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
