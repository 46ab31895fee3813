"""An initialisation for matrices was given a bias or a norm's weight."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-28", "module-init-fan", "0.2"
TITLE = "ValueError: Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"
RAISES = ("ValueError",)
NEEDLES = ("Fan in and fan out can not be computed", "Only tensors with 2 or more dimensions are supported")
PATTERNS = (
    r"Fan in and fan out can not be computed for tensor with fewer than 2 dimensions",
    r"Only tensors with 2 or more dimensions are supported",
)
OLD: tuple[str, ...] = ()
WHY = "Xavier, Kaiming and orthogonal initialisation count what goes into and out of a layer, so they need a weight of at least two dimensions. A loop over all parameters meets biases and the weights of norms, which are vectors."
CHECK = "`p.dim()` in the loop."


def explain(event: Event) -> Iterator[Cause]:
    """The tensor, where the line names it."""
    met = next((fact for fact in tensors_in_line(event) if len(fact.shape) < 2), None)
    name = met.name if met else "p"
    yield Cause(
        CODE,
        NAME,
        what=f"an initialisation for weights was given {name + ' ' + shape_text(met.shape) if met else 'a vector'}",
        why="it counts inputs and outputs, and a bias or the weight of a norm has but one dimension",
        fix=(f"if {name}.dim() > 1:   # in front: vectors keep what their layer gave them",),
        likelihood="certain",
    )


EXAMPLE = """
from torch import nn

model = nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2))
for p in model.parameters():
    nn.init.xavier_uniform_(p)
"""
MENDED = """
from torch import nn

model = nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2))
for p in model.parameters():
    if p.dim() > 1:
        nn.init.xavier_uniform_(p)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
