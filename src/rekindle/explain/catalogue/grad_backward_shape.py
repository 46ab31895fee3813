"""backward was given a gradient of another shape, or gradients of one tensor are to become another's."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-27", "grad-backward-shape", "0.2"
TITLE = "Mismatch in shape: grad_output[0] has a shape of torch.Size([4]) and output[0] has a shape of torch.Size([3])."
RAISES = ("RuntimeError",)
NEEDLES = ("Mismatch in shape: grad_output", "attempting to assign a gradient", "assigned grad has data of a different")
PATTERNS = (
    r"Mismatch in shape: grad_output\[\d+\] has a shape of torch\.Size\(\[(?P<got>[\d, ]*)\]\) and output\[\d+\] has a shape of torch\.Size\(\[(?P<want>[\d, ]*)\]\)",
    r"attempting to assign a gradient of size '\[(?P<got>[\d, ]*)\]' to a tensor of size '\[(?P<want>[\d, ]*)\]'",
    r"attempting to assign a gradient with dtype '(?P<dtype>[\w:]+)' to a tensor with (?:grad_)?dtype '(?P<own>[\w:]+)'",
    r"assigned grad has data of a different (?P<kind>size|type)",
)
OLD = ("RuntimeError: assigned grad has data of a different size",)
WHY = "A gradient has the shape and dtype of what it is the gradient of: in `y.backward(gradient=...)` that is `y`, in `p.grad = ...` it is `p`."
CHECK = "`y.shape` and the shape of what is given."


def explain(event: Event) -> Iterator[Cause]:
    """Both shapes, or both dtypes."""
    fix: tuple[str, ...]
    facts = event.facts
    assigned = "assign" in event.message
    if facts.get("dtype"):
        a, b = dtype_name(facts["dtype"]), dtype_name(facts["own"])
        what, fix = f"a gradient of {a} is assigned to a tensor of {b}", ("p.grad = grad.to(p.dtype)",)
    elif facts.get("kind"):
        what, fix = (
            f"a gradient of another {facts['kind']} is assigned to a tensor",
            ("p.grad = grad.reshape(p.shape).to(p.dtype)   # if that is meant",),
        )
    else:
        got, want = f"[{facts['got']}]", f"[{facts['want']}]"
        what = (
            f"a gradient of shape {got} is assigned to a tensor of {want}"
            if assigned
            else f"backward was given a gradient of {got} for a result of {want}"
        )
        fix = (
            ("p.grad = grad.reshape(p.shape)   # if that is meant",)
            if assigned
            else (
                "y.backward(torch.ones_like(y))   # the same as y.sum().backward()",
                "loss.mean().backward()   # a loss of one number needs no argument",
            )
        )
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="a gradient has the shape and dtype of what it is the gradient of",
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch

y = torch.ones(3, requires_grad=True) * 2
y.backward(torch.ones(4))
"""
MENDED = """
import torch

y = torch.ones(3, requires_grad=True) * 2
y.backward(torch.ones_like(y))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
