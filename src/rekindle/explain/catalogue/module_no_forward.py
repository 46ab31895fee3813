"""The module has no forward: misspelled, wrongly indented or missing."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-03", "module-no-forward", "0.2"
TITLE = 'NotImplementedError: Module [Net] is missing the required "forward" function'
RAISES = ("NotImplementedError", "TypeError")
NEEDLES = ('is missing the required "forward" function', "_forward_unimplemented()", "NotImplementedError")
PATTERNS = (
    r"Module \[(?P<kind>\w+)\] is missing the required \"forward\" function",
    r"_forward_unimplemented\(\) (?:got|takes)",
    r"^(?P<bare>NotImplementedError)$",
)
OLD = (
    "TypeError: _forward_unimplemented() takes 1 positional argument but 2 were given",
    "TypeError: _forward_unimplemented() got an unexpected keyword argument 'mask'",
)
WHY = "A module is called through its method `forward`. It is misspelled (`foward`), indented so far that it is a function inside `__init__`, or stands outside of the class."
CHECK = '`[name for name in dir(model) if "for" in name]`; the indentation of `def forward`.'
_CONTAINERS = {"ModuleList", "ModuleDict", "ParameterList", "ParameterDict"}


def explain(event: Event) -> Iterator[Cause]:
    """The class by its name; a bare NotImplementedError only where torch's module raised it."""
    kind = event.facts.get("kind", "")
    if kind in _CONTAINERS:
        return  # module-modulelist-forward
    if event.facts.get("bare"):
        last = event.frames[-1] if event.frames else None
        if last is None or "torch/nn/modules/module.py" not in last.path.replace("\\", "/"):
            return
    yield Cause(
        CODE,
        NAME,
        what=f"{f'the class {kind}' if kind else 'the module'} has no forward",
        why="it is misspelled (foward, farward), indented into __init__, or stands outside of the class",
        fix=("def forward(self, x):   # at the level of __init__, inside the class",),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def foward(self, x):
        return x

Net()(torch.ones(1))
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x

Net()(torch.ones(1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
