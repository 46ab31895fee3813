"""Several models in a list are one and the same model."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-16", "opt-generator-shared-list", "0.2"
TITLE = "[model] * 3 is one model three times"
RAISES = ()
NEEDLES = ()
PATTERNS = ()
OLD: tuple[str, ...] = ()
WHY = (
    'A list holds references. `[model] * n`, the same layer put in twice, or `clone = model` make no copy: the "models" share'
    " their weights and are trained as one. The same holds of a best model that is kept as `best = model` or"
    " `best = model.state_dict()`: it goes on changing."
)
CHECK = "`len({id(m) for m in models}) == len(models)`."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


EXAMPLE = """
import torch
from torch import nn

ensemble = nn.ModuleList([nn.Linear(2, 2)] * 3)
assert len(list(ensemble.parameters())) == 2  # one Linear, not three
"""
MENDED = """
import copy
import torch
from torch import nn

ensemble = nn.ModuleList([copy.deepcopy(nn.Linear(2, 2)) for _ in range(3)])
assert len(list(ensemble.parameters())) == 6
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
