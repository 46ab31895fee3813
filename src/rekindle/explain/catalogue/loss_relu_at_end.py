"""An activation after the last layer cuts half of the outputs."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-10", "loss-relu-at-end", "0.2"
TITLE = "all predictions are 0 and the loss does not change: ReLU after the last layer"
RAISES = ()
NEEDLES = ()
PATTERNS = ()
OLD: tuple[str, ...] = ()
WHY = (
    "A ReLU at the end makes every negative output 0, and its gradient there is 0 too. Once all outputs of a sample are negative,"
    " nothing pulls them back: predictions are all 0 (or all the first class) and the loss stands still. Regression to negative"
    " values is impossible, and `CrossEntropyLoss` loses the half of its input that says no. If the last layer is plain, look for"
    " labels shuffled against inputs, a forgotten `zero_grad()`, frozen layers, or a model left in the wrong mode."
    " `rekindle.check` finds it on one batch (`activation-after-last-layer`)."
)
CHECK = "The last module of the model; the share of outputs that are exactly 0; parameters whose gradient is 0 or None."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


EXAMPLE = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 1), nn.ReLU())
with torch.no_grad():
    model[0].bias.fill_(-5.0)
output = model(torch.rand(8, 4))
((output - 1) ** 2).mean().backward()
assert output.abs().max() == 0
assert model[0].weight.grad.abs().max() == 0  # nothing to learn from
"""
MENDED = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 1))
with torch.no_grad():
    model[0].bias.fill_(-5.0)
output = model(torch.rand(8, 4))
((output - 1) ** 2).mean().backward()
assert output.abs().max() > 0
assert model[0].weight.grad.abs().max() > 0
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
