"""A container without a forward was called."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-02", "module-modulelist-forward", "0.2"
TITLE = 'NotImplementedError: Module [ModuleList] is missing the required "forward" function'
RAISES = ("NotImplementedError", "RuntimeError")
NEEDLES = (
    'is missing the required "forward" function',
    "ParameterList should not be called",
    "ParameterDict should not be called",
)
PATTERNS = (
    r"Module \[(?P<kind>ModuleList|ModuleDict)\] is missing the required \"forward\" function",
    r"(?P<kind>ParameterList|ParameterDict) should not be called",
)
OLD = ("RuntimeError: ParameterList should not be called.",)
WHY = "`ModuleList` and `ModuleDict` hold layers so that their parameters are found; in which order they run is for `forward` to say. What is to be called as a whole is an `nn.Sequential`."
CHECK = "The class of what is called."


def explain(event: Event) -> Iterator[Cause]:
    """The user's own name of the list, from the line."""
    kind = event.facts["kind"]
    found = re.search(r"([A-Za-z_][\w.]*)\(", code_of(event))
    name = found[1] if found and found[1] not in {"print", "len", "str"} else "self.layers"
    if kind == "ModuleDict":
        fix: tuple[str, ...] = (f"{name}[key](x)   # the one that is meant",)
    elif kind.startswith("Parameter"):
        fix = (f"{name}[0]   # a parameter by its number or key",)
    else:
        fix = (f"for layer in {name}: x = layer(x)", f"nn.Sequential(*{name})(x)   # if they run one after the other")
    yield Cause(
        CODE,
        NAME,
        what=f"a {kind} was called, which only holds its members",
        why="it has no forward: the order in which its members run is the caller's to say",
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

layers = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])
layers(torch.ones(1, 2))
"""
MENDED = """
import torch
from torch import nn

layers = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])
x = torch.ones(1, 2)
for layer in layers:
    x = layer(x)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
