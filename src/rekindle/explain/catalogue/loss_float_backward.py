"""The loss is a Python number, and has no graph any more."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._sources import last_line_with
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-08", "loss-float-backward", "0.2"
TITLE = "AttributeError: 'float' object has no attribute 'backward'"
RAISES = ("AttributeError",)
NEEDLES = ("has no attribute 'backward'",)
PATTERNS = (
    r"'(?P<kind>float|int|list|tuple|dict|NoneType|ndarray|numpy\.\w+|float32|float64)' object has no attribute 'backward'",
)
OLD = ("AttributeError: 'numpy.float64' object has no attribute 'backward'",)
WHY = (
    "`.item()`, `float(loss)`, NumPy and `sum([])` of an empty list give numbers, and a number knows nothing of how it was"
    " computed. The tensor is for `backward()`, the number for the log."
)
CHECK = "`type(loss)`; where it was converted."


def explain(event: Event) -> Iterator[Cause]:
    """By the class, and where the user's source converts it."""
    kind = event.facts["kind"].removeprefix("numpy.")
    found = re.search(r"([A-Za-z_]\w*)\.backward\(", code_of(event))
    name = found[1] if found else "loss"
    line = last_line_with(event, r"\.item\(\)|\bfloat\(|\.numpy\(\)|np\.")
    value = event.live.find_plain(name) if event.live else None
    shown = f" ({value:g})" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
    if kind in {"list", "tuple", "dict"}:
        why = "it holds several losses; gradients are of one number"
        fix = (
            f"sum({name}{'.values()' if kind == 'dict' else ''}).backward()   # losses of several parts, added up",
            f"{name}[0].backward()   # or one of them"
            if kind != "dict"
            else f'{name}["loss"].backward()   # or one of them',
        )
    elif kind == "NoneType":
        why = "nothing was returned: the function that computes it has no return, or the model was not given labels"
        fix = (
            f"return {name}   # in that function",
            "model(..., labels=labels)   # models of Transformers compute a loss only then",
        )
    elif kind == "int" and not shown.strip(" ()").strip("0"):
        why = "it is still what it was set to in front of the loop: nothing was added, or only numbers"
        fix = (
            f"{name} = {name} + criterion(output, target)   # tensors, without .item()",
            "print(len(loader))   # 0: nothing was added",
        )
    else:
        why = (
            f"it was taken out of the graph in {line}" if line else ".item(), float() or NumPy took it out of the graph"
        )
        fix = (
            "loss = criterion(output, target); loss.backward()   # the tensor",
            "total += loss.item()   # a number of its own for the log",
        )
    yield Cause(
        CODE,
        NAME,
        what=f"{name} is {'an' if kind.startswith('int') else 'a'} {kind}{shown}, not a tensor",
        why=why,
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 1)
loss = model(torch.ones(4, 2)).mean().item()
loss.backward()
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 1)
loss = model(torch.ones(4, 2)).mean()
loss.backward()
print(loss.item())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
