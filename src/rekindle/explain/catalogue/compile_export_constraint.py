"""A size that an export was told may change has to be fixed for this model."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-COMPILE-06", "compile-export-constraint", "0.2"
TITLE = (
    'torch._dynamo.exc.UserError: Constraints violated (batch)! For more information, run with TORCH_LOGS="+dynamic".'
)
RAISES = ("UserError", "ConstraintViolationError", "RuntimeError")
NEEDLES = ("Constraints violated (",)
PATTERNS = (r"Constraints violated \((?P<names>[^)\n]{1,200})\)!",)
OLD: tuple[str, ...] = ()
WHY = '`Dim("batch")` promises that the model works for any such size. While it was traced, something needed the number itself: a `view` with a written size, an `assert`, a layer whose size follows from it, or the values 0 and 1, which are always special.'
CHECK = "The lines under the message name the size and the line; `Suggested fixes` at its end says what would hold."
_FIXED = re.compile(r"specialized it to be a constant \((\d+)\)")
_RANGE = re.compile(r"Suggested fixes:\n((?:\s{2}[^\n]{1,200}\n?){1,5})")


def explain(event: Event) -> Iterator[Cause]:
    """Which size was fixed to what."""
    names = event.facts["names"]
    fixed, suggested = _FIXED.search(event.message), _RANGE.search(event.message)
    value = f" at {fixed[1]}" if fixed else ""
    said = " ".join(suggested[1].split()) if suggested else ""
    size = fixed[1] if fixed else "4"
    yield Cause(
        CODE,
        NAME,
        what=f"the model fixes the size {names}{value}, and the export was told that it may change",
        why="a view or reshape with a written size, an assert, or an example input of size 0 or 1",
        fix=(
            f"x.view(x.shape[0], ...)   # in place of a written {size}",
            "an example input of 2 or more in that dimension   # 0 and 1 are traced as fixed",
            f"dynamic_shapes={{...: {{0: Dim.AUTO}}}}   # lets the export decide{f'; torch suggests {said[:100]}' if said else ''}",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.export import Dim

class Net(torch.nn.Module):
    def forward(self, x):
        return x.view(4, 3)

torch.export.export(Net(), (torch.ones(4, 3),), dynamic_shapes={"x": {0: Dim("batch")}})
"""
MENDED = """
import torch
from torch.export import Dim

class Net(torch.nn.Module):
    def forward(self, x):
        return x.view(x.shape[0], 3)

torch.export.export(Net(), (torch.ones(4, 3),), dynamic_shapes={"x": {0: Dim("batch")}})
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
