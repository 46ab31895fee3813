"""`backward()` without arguments was called on more than one number."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-05", "grad-scalar-output", "0.2"
TITLE = "grad can be implicitly created only for scalar outputs"
RAISES = ("RuntimeError",)
NEEDLES = ("grad can be implicitly created only for",)
PATTERNS = (
    r"grad can be implicitly created only for scalar outputs",
    r"grad can be implicitly created only for real scalar outputs but got torch\.(?P<complex>\w+)",
)
OLD: tuple[str, ...] = ()
WHY = (
    'A gradient is of one number. A loss with `reduction="none"`, a column of the output for a whole batch, or the losses that'
    " `DataParallel` gathers from its GPUs are several; they are to become one first."
)
CHECK = "`loss.shape`: it has to be `torch.Size([])`."


def explain(event: Event) -> Iterator[Cause]:
    """With the shape and name, where they are known."""
    code = code_of(event)
    found = re.search(r"([A-Za-z_]\w*)\.backward\(", code)
    name = found[1] if found else "loss"
    fact = next((fact for fact in tensors_in_line(event) if fact.name == name), None)
    kinds = event.live.user_frame.kinds.values() if event.live and event.live.user_frame else ()
    gathered = "DataParallel" in kinds
    if event.facts.get("complex"):
        fix: tuple[str, ...] = (f"{name}.abs().backward()   # or .real: a real number of it",)
        why = f"it is {event.facts['complex']}; a gradient is of one real number"
    else:
        fix = (
            f"{name}.mean().backward()   # the mean over the {'GPUs' if gathered else 'batch'}",
            f"{name}.sum().backward()   # for gradients of each sample's input at once",
            f"{name}.backward(torch.ones_like({name}))   # or weights of your own, one for each",
        )
        why = (
            "DataParallel gathers one loss of each GPU"
            if gathered
            else "a gradient is of one number: a batch of losses is to be added up first"
        )
    yield Cause(
        CODE,
        NAME,
        what=f"{name} has shape {shape_text(fact.shape)}, and backward() needs one number"
        if fact and fact.shape
        else "backward() was called on more than one number",
        why=why,
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

output = nn.Linear(4, 3)(torch.ones(2, 4))
scores = output[:, 1]
scores.backward()
"""
MENDED = """
import torch
from torch import nn

output = nn.Linear(4, 3)(torch.ones(2, 4))
scores = output[:, 1]
scores.sum().backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
