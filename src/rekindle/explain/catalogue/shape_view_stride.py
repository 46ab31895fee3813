"""`view` cannot read this memory in the new shape, since the tensor is not laid out in order."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-11", "shape-view-stride", "0.2"
TITLE = "view size is not compatible with input tensor's size and stride (at least one dimension spans across two contiguous subspaces)"
RAISES = ("RuntimeError",)
NEEDLES = ("view size is not compatible with input tensor",)
PATTERNS = (r"view size is not compatible with input tensor",)
OLD = (
    (
        "RuntimeError: invalid argument 2: view size is not compatible with input tensor's size and stride (at least one"
        " dimension spans across two contiguous subspaces). Call .contiguous() before .view()."
    ),
)
WHY = (
    "`view` only looks at the same memory in another shape. After `transpose`, `permute`, a slice of inner dimensions, or in"
    " the `channels_last` format, the elements do not lie in the order that the new shape would read them. `reshape` copies"
    " where it has to."
)
CHECK = "`x.is_contiguous()`, `x.stride()`, and what made x: a transpose, a permute, a slice."


def explain(event: Event) -> Iterator[Cause]:
    """The user's own line with `reshape` in it, where it can be read."""
    code = code_of(event)
    mended = code.replace(".view(", ".reshape(") if ".view(" in code else ""
    in_loss = "backward" in code
    yield Cause(
        CODE,
        NAME,
        what="view was called on a tensor whose elements do not lie in order (it was transposed, permuted or sliced)",
        why="view never copies, and these elements cannot be read in the new shape without copying",
        fix=(
            f"{mended}   # reshape copies where it has to" if mended else "x.reshape(...)   # copies where it has to",
            "x.contiguous().view(...)   # the same in two steps"
            if not in_loss
            else "output.contiguous()   # what the failing backward was given by your own function",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

pixels = torch.ones(2, 3).t()
pixels.view(6)
"""
MENDED = """
import torch

pixels = torch.ones(2, 3).t()
pixels.reshape(6)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
