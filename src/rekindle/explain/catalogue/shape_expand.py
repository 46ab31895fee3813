"""A tensor is to be expanded or written into a shape that it does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-20", "shape-expand", "0.2"
TITLE = "The expanded size of the tensor (4) must match the existing size (3) at non-singleton dimension 1. Target sizes: [2, 4]. Tensor sizes: [3]"
RAISES = ("RuntimeError",)
NEEDLES = (
    "The expanded size of the tensor",
    "the number of sizes provided (",
    "cannot be broadcast to indexing result",
)
PATTERNS = (
    r"The expanded size of the tensor \((?P<want>\d+)\) must match the existing size \((?P<have>\d+)\) at non-singleton dimension (?P<dim>\d+)(?:\.  ?Target sizes: \[(?P<target>[\d, -]*)\]\.  ?Tensor sizes: \[(?P<source>[\d, ]*)\])?",
    r"expand\([\w.]*\{\[(?P<source>[\d, ]*)\]\}, size=\[(?P<target>[-\d, ]*)\]\): the number of sizes provided \(\d+\) must be greater or equal",
    r"shape mismatch: value tensor of shape \[(?P<source>[\d, ]*)\] cannot be broadcast to indexing result of shape \[(?P<target>[\d, ]*)\]",
)
OLD = (
    "RuntimeError: The expanded size of the tensor (4) must match the existing size (3) at non-singleton dimension 1",
)
WHY = (
    "A tensor can grow only along dimensions of size 1, lined up from the last one on; every other size has to be equal. The"
    " same rule holds for `expand`, for writing into a slice (`x[0] = y`) and for a bias that is added to an output."
)
CHECK = "Both shapes, written one below the other and lined up on the right."

_ASSIGNS = re.compile(r"\]\s*=[^=]")


def explain(event: Event) -> Iterator[Cause]:
    """Both shapes; whether it was an assignment to a slice or an expand."""
    facts = event.facts
    source, target = numbers(facts.get("source", "")), numbers(facts.get("target", ""))
    code = code_of(event)
    assigns = bool(_ASSIGNS.search(code)) or "indexing result" in event.message
    fix = []
    if source and target and source == target[: len(source)] and len(source) < len(target):
        extra = len(target) - len(source)
        fix.append(
            f"y{'.unsqueeze(-1)' * extra}   # {shape_text(source)} goes with the first dimensions of {shape_text(target)}, not the last"
        )
    if assigns:
        fix.append("print(x[...].shape, y.shape)   # the place and the value; correct the slice or the value")
    else:
        fix.append("y.unsqueeze(...).expand(...)   # first a dimension of size 1 where it should grow")
    shapes = (
        f"{shape_text(source)} does not fit into {shape_text(target)}"
        if target
        else f"size {facts.get('have')} does not fit into {facts.get('want')}"
    )
    at = f": {facts['have']} and {facts['want']} in dimension {facts['dim']}" if facts.get("dim") else ""
    yield Cause(
        CODE,
        NAME,
        what=shapes + (at if target else f" in dimension {facts.get('dim', '')}"),
        why=(
            "the value of an assignment has to have the shape of the place"
            if assigns
            else "only dimensions of size 1 can grow"
        )
        + "; shapes are lined up from the last dimension",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch

table = torch.zeros(2, 4)
table[0] = torch.ones(3)
"""
MENDED = """
import torch

table = torch.zeros(2, 4)
table[0, :3] = torch.ones(3)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
