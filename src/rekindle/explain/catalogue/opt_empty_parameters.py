"""The optimizer was given no parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-14", "opt-empty-parameters", "0.2"
TITLE = "ValueError: optimizer got an empty parameter list"
RAISES = ("ValueError",)
NEEDLES = ("optimizer got an empty parameter list",)
PATTERNS = (r"optimizer got an empty parameter list",)
OLD = ("ValueError: optimizer got an empty parameter list",)
WHY = (
    "A module finds its layers among its attributes. Layers in a plain list or dict are not found: `model.parameters()`,"
    " `.to(device)` and `state_dict()` pass them by. Other ways to nothing: a filter that drops all (a model that is frozen as a"
    " whole), and a generator that was read once already, for instance to count the parameters."
)
CHECK = "`sum(1 for _ in model.parameters())`, and `print(model)`: are the layers there?"


def explain(event: Event) -> Iterator[Cause]:
    """Filter, used generator or plain list: the user's line tells the first two."""
    code = code_of(event)
    frame = event.live.user_frame if event.live else None
    spent = (
        next(
            (
                name
                for name, kind in frame.kinds.items()
                if kind in {"generator", "filter"} and re.search(rf"\b{re.escape(name)}\b", code)
            ),
            "",
        )
        if frame
        else ""
    )
    lists = "self.layers = nn.ModuleList([...])   # in place of a list; nn.ModuleDict in place of a dict"
    frozen = "for p in model.head.parameters(): p.requires_grad_(True)   # in front of it: something is to be trained"
    again = "params = list(model.parameters())   # a list can be read twice, a generator once"
    if spent:
        what, why, fix = (
            f"{spent} gave no parameters",
            f"{spent} is a generator: it was read before, or nothing passes its filter",
            (again, frozen),
        )
    elif "filter(" in code or "requires_grad" in code:
        what, why, fix = (
            "the filter left no parameters",
            "every parameter is frozen where the optimizer is built",
            (frozen, lists),
        )
    else:
        what, why, fix = (
            "the model has no parameters that it knows of",
            "layers in a plain list or dict are not registered; or the generator was read before",
            (lists, again),
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain" if spent else "likely")


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(2, 2), nn.Linear(2, 2)]

torch.optim.SGD(Net().parameters(), lr=0.1)
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

torch.optim.SGD(Net().parameters(), lr=0.1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
