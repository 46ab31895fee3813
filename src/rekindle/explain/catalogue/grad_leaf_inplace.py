"""A parameter is changed in place while gradients are recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-03", "grad-leaf-inplace", "0.2"
TITLE = "a leaf Variable that requires grad is being used in an in-place operation."
RAISES = ("RuntimeError",)
NEEDLES = ("leaf Variable that requires grad", "leaf variable has been moved into the graph interior")
PATTERNS = (
    r"(?P<view>a view of )?a leaf Variable that requires grad (?:is being|has been) used in an in-place operation",
    r"leaf variable has been moved into the graph interior",
)
OLD = (
    "RuntimeError: leaf variable has been moved into the graph interior",
    "RuntimeError: a leaf Variable that requires grad has been used in an in-place operation.",
)
WHY = (
    "A parameter is where gradients arrive. Changed in place while the graph is recorded, it would be a result and no parameter"
    " any more. Updates by hand, initialisation and surgery on weights are to run without recording."
)
CHECK = "The line: `+=`, `w[...] = ...` or a method that ends in `_`, on a parameter or a tensor made with `requires_grad=True`."


def explain(event: Event) -> Iterator[Cause]:
    """With the user's own line inside `no_grad`."""
    code = code_of(event)
    found = re.search(r"([A-Za-z_][\w.]*?)(?:\.data)?(?:\[[^\]]*\])?(?:\s*[-+*/]?=(?!=)|\.\w+_\()", code)
    name = found[1] if found else "the parameter"
    yield Cause(
        CODE,
        NAME,
        what=f"{'a piece of ' if event.facts.get('view') else ''}{name} is changed in place while gradients are recorded",
        why="it is a leaf that requires gradients, as parameters do; such a change is to run outside of the graph",
        fix=(
            f"with torch.no_grad(): {code}" if code and len(code) < 90 else "with torch.no_grad(): w -= lr * w.grad",
            "nn.init.zeros_(layer.weight)   # the functions of nn.init do that themselves",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

weight = torch.ones(3, requires_grad=True)
(weight * 2).sum().backward()
weight -= 0.1 * weight.grad
"""
MENDED = """
import torch

weight = torch.ones(3, requires_grad=True)
(weight * 2).sum().backward()
with torch.no_grad():
    weight -= 0.1 * weight.grad
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
