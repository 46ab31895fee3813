"""A parameter stands in two groups of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-30", "opt-parameters-twice", "0.2"
TITLE = "ValueError: some parameters appear in more than one parameter group"
RAISES = ("ValueError",)
NEEDLES = ("appear in more than one parameter group", "with duplicate parameters")
PATTERNS = (
    r"some parameters appear in (?P<groups>more than one) parameter group",
    r"optimizer contains a parameter group with duplicate parameters",
)
OLD: tuple[str, ...] = ()
WHY = "Each parameter gets one update for each step. Groups that were cut by name overlap (`backbone` and the whole model), or two modules share a parameter, such as tied embeddings."
CHECK = "`{name for name, p in model.named_parameters() if id(p) in ids}` for the ids of the first group."


def explain(event: Event) -> Iterator[Cause]:
    """How groups are cut so that they do not overlap."""
    same = not event.facts.get("groups")
    yield Cause(
        CODE,
        NAME,
        what=f"a parameter was given to the optimizer twice{', in one group' if same else ''}",
        why="the groups overlap (a part and the whole model), or two modules share a parameter",
        fix=(
            "head = set(model.head.parameters())",
            'groups = [{"params": [p for p in model.parameters() if p not in head]}, {"params": list(head), "lr": 1e-2}]',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
torch.optim.SGD([{"params": model.parameters()}, {"params": model[1].parameters(), "lr": 0.1}], lr=0.01)
"""
MENDED = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
head = set(model[1].parameters())
rest = [p for p in model.parameters() if p not in head]
torch.optim.SGD([{"params": rest}, {"params": list(head), "lr": 0.1}], lr=0.01)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
