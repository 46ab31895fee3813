"""`.grad` is None where a gradient was expected."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._sources import last_line_with
from rekindle.explain.catalogue._words import numbers
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-13", "grad-is-none", "0.2"
TITLE = "AttributeError: 'NoneType' object has no attribute 'data' (or 'norm') at p.grad"
RAISES = ("AttributeError", "TypeError")
NEEDLES = ("'NoneType' object has no attribute", "'NoneType'", "for unary -: 'NoneType'")
PATTERNS = (
    r"'NoneType' object has no attribute '(?P<attribute>\w+)'",
    r"unsupported operand type\(s\) for (?P<operator>\S+): '(?P<left>\w+)' and 'NoneType'",
    r"unsupported operand type\(s\) for (?P<operator>\S+): 'NoneType' and '(?P<left>\w+)'",
    r"bad operand type for unary (?P<operator>\S+): 'NoneType'",
)
OLD: tuple[str, ...] = ()
WHY = (
    "A parameter has no gradient before the first `backward()`, when it took no part in the loss, when it is frozen, and after"
    " `zero_grad()`, which sets it to None since 2.0. A tensor that was computed (also by `.to(device)`) keeps none unless it is"
    " asked to."
)
CHECK = "`p.requires_grad`, `p.is_leaf`, and the order of `zero_grad()`, `backward()` and the line that reads `.grad`."
_GRAD = re.compile(r"([A-Za-z_][\w.\[\]]*)\.grad\b")


def explain(event: Event) -> Iterator[Cause]:
    """Only where the user's line reads `.grad`: the message alone says nothing of gradients."""
    found = _GRAD.search(code_of(event))
    if not found:
        return
    name = found[1]
    zeroed = last_line_with(event, r"zero_grad\(")
    backward = last_line_with(event, r"\.backward\(")
    fact = next((fact for fact in tensors_in_line(event) if fact.name == name), None)
    if fact is not None and not fact.requires_grad:
        why = f"{name} does not require gradients: it is frozen, or was made without requires_grad=True"
    elif event.live and not backward:
        why = "no backward() ran in front of this line"
    elif zeroed and backward and _number(zeroed) > _number(backward):
        why = f"zero_grad() ({zeroed}) sets gradients to None, and stands between backward() and this line"
    else:
        why = "there was no backward() yet, the parameter took no part in the loss or is frozen, zero_grad() ran before, or it is not a leaf"
    yield Cause(
        CODE,
        NAME,
        what=f"{name}.grad is None",
        why=why,
        fix=(
            f"if {name}.grad is not None:   # parameters that took no part in this loss",
            "loss.backward()   # first; read gradients between it and zero_grad()",
            f"{name}.retain_grad()   # in front of backward(), if it was computed (.to() and * make a new tensor)",
        ),
    )


def _number(line: str) -> int:
    return numbers(line)[0]


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 2)
model(torch.ones(1, 2)).sum()
print(model.weight.grad.norm())
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 2)
model(torch.ones(1, 2)).sum().backward()
print(model.weight.grad.norm())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
