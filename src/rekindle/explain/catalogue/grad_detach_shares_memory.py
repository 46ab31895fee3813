"""`detach()` gives another view of the same memory."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-11", "grad-detach-shares-memory", "0.2"
TITLE = "writing into x.detach() changes x too"
RAISES = ()
NEEDLES = ()
PATTERNS = ()
OLD: tuple[str, ...] = ()
WHY = (
    "`x.detach()`, `x.data` and `x.numpy()` share the numbers with `x`; what is written into one is in the other. A snapshot of a"
    " weight kept for later (the best one, the one before the step) therefore changes with the training. Where the tensor is"
    " needed by a backward pass, the write is noticed and `grad-inplace` is raised."
)
CHECK = "`a.data_ptr() == b.data_ptr()`."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


EXAMPLE = """
import torch

weight = torch.ones(2, requires_grad=True)
before = weight.detach()
with torch.no_grad():
    weight += 1
assert before.tolist() == [2, 2]  # not what it was before
"""
MENDED = """
import torch

weight = torch.ones(2, requires_grad=True)
before = weight.detach().clone()
with torch.no_grad():
    weight += 1
assert before.tolist() == [1, 1]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
