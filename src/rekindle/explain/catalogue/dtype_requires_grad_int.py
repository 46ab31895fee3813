"""Gradients were asked for a tensor of whole numbers."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-08", "dtype-requires-grad-int", "0.2"
TITLE = "Only Tensors of floating point and complex dtype can require gradients"
RAISES = ("RuntimeError",)
NEEDLES = ("can require gradients",)
PATTERNS = (r"[oO]nly Tensors of floating point (?:and complex )?dtype can require gradients",)
OLD = ("RuntimeError: Only Tensors of floating point dtype can require gradients",)
WHY = (
    "A gradient says how a small change of a value would change the loss, and a whole number cannot change a little."
    " `torch.tensor([1, 2])` is int64 because its numbers have no decimal point. Parameters of a quantised model are whole"
    " numbers too, and are not trained."
)
CHECK = "`x.dtype`."


def explain(event: Event) -> Iterator[Cause]:
    """A literal without decimal points, a parameter, or any tensor."""
    code = code_of(event)
    if "Parameter(" in code:
        fix: tuple[str, ...] = (
            "nn.Parameter(x.float())",
            "nn.Parameter(x, requires_grad=False)   # or register_buffer, if it is not trained",
        )
    elif "requires_grad_(" in code or ".requires_grad" in code:
        fix = (
            "x = x.float().requires_grad_()",
            "if p.is_floating_point(): p.requires_grad_()   # in a loop over parameters: only floats are trained",
        )
    else:
        fix = (
            "torch.tensor([1., 2.], requires_grad=True)   # decimal points make it float32",
            "torch.tensor(values, dtype=torch.float32, requires_grad=True)",
        )
    yield Cause(
        CODE,
        NAME,
        what="gradients were asked for a tensor of whole numbers",
        why="only floats can change a little; a tensor made from numbers without decimal points is int64",
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch

torch.tensor([1, 2], requires_grad=True)
"""
MENDED = """
import torch

torch.tensor([1.0, 2.0], requires_grad=True)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
