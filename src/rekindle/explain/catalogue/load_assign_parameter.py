"""A plain tensor is assigned where a module keeps a parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-22", "load-assign-parameter", "0.2"
TITLE = "TypeError: cannot assign 'torch.FloatTensor' as parameter 'weight' (torch.nn.Parameter or None expected)"
RAISES = ("TypeError",)
NEEDLES = ("as parameter '",)
PATTERNS = (r"cannot assign '(?P<type>[\w.]+)'(?: object)? (?:as|to) parameter '(?P<name>\w+)'",)
OLD = ("TypeError: cannot assign 'torch.cuda.FloatTensor' as parameter 'weight' (torch.nn.Parameter or None expected)",)
WHY = (
    "A module keeps its parameters in a list of their own, and optimizers and `state_dict` rely on it. A name that is a"
    " parameter therefore takes only an `nn.Parameter`; what a state dict holds are plain tensors."
)
CHECK = "`type(value)` of the right side."

_TARGET = re.compile(r"^(?P<owner>[\w.\[\]]+)\.(?P<name>\w+)\s*=\s*(?P<value>[^=].*)$")


def explain(event: Event) -> Iterator[Cause]:
    """With the user's own assignment, rewritten, where it can be read."""
    name = event.facts["name"]
    frame = event.user_frame
    found = _TARGET.match(frame.code) if frame else None
    written = found is not None and found["name"] == name
    owner = found["owner"] if found and written else "layer"
    value = found["value"] if found and written else "value"
    yield Cause(
        CODE,
        NAME,
        what=f"{owner}.{name} is a parameter and was given a plain tensor ({event.facts['type']})",
        why="a registered parameter can be replaced only by an nn.Parameter, and the optimizer would go on with the old one",
        fix=(
            f"with torch.no_grad(): {owner}.{name}.copy_({value})   # keeps the parameter and fills it",
            f"{owner}.{name} = nn.Parameter({value})   # a new parameter; build the optimizer after it",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

conv1 = nn.Conv2d(1, 1, 1)
conv1.weight = torch.zeros(1, 1, 1, 1)
"""
MENDED = """
import torch
from torch import nn

conv1 = nn.Conv2d(1, 1, 1)
with torch.no_grad():
    conv1.weight.copy_(torch.zeros(1, 1, 1, 1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
