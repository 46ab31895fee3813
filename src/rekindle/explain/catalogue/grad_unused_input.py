"""Gradients were asked for a tensor that the result does not depend on."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-23", "grad-unused-input", "0.2"
TITLE = "One of the differentiated Tensors appears to not have been used in the graph. Set allow_unused=True if this is the desired behavior."
RAISES = ("RuntimeError",)
NEEDLES = ("to not have been used in the graph", "differentiated Tensors does not require grad")
PATTERNS = (
    r"(?:One of the differentiated Tensors|The differentiated Tensor at index (?P<index>\d+)) appears to not have been used in the graph",
    r"(?P<flag>One of the differentiated Tensors does not require grad)",
)
OLD = (
    "RuntimeError: One of the differentiated Tensors appears to not have been used in the graph. Set allow_unused=True if this is the desired behavior.",
)
WHY = (
    "`torch.autograd.grad(outputs, inputs)` wants a way from every input to the outputs. There is none where the input was copied,"
    " indexed, moved or detached before it was used (the copy is in the graph, not the tensor that is named), or where a layer was not run."
)
CHECK = "Is the tensor in `inputs` the very object that went into the model? `x = x.to(device)`, `x[0]` and `x.clone()` are others."


def explain(event: Event) -> Iterator[Cause]:
    """Which of the inputs, and the two ways it comes about."""
    index = event.facts.get("index")
    which = f"input {index} of autograd.grad" if index else "an input of autograd.grad"
    if event.facts.get("flag"):
        met = next((fact for fact in tensors_in_line(event) if not fact.requires_grad and fact.shape), None)
        name = met.name if met else "x"
        yield Cause(
            CODE,
            NAME,
            what=f"gradients were asked for {name if met else 'a tensor'}, which does not require them",
            why="nothing was recorded for it; the flag has to be there before the forward pass",
            fix=(f"{name}.requires_grad_()   # in front of the forward pass",),
            likelihood="certain",
        )
        return
    yield Cause(
        CODE,
        NAME,
        what=f"{which} has no part in the result",
        why="the tensor that went into the model is another one (a copy, a piece, one on another device), or that layer did not run",
        fix=(
            "x = x.to(device).requires_grad_()   # the last step in front of the forward pass, then give this x to grad",
            "torch.autograd.grad(loss, inputs, allow_unused=True)   # None for those without a part, if that is meant",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

x = torch.rand(3, requires_grad=True)
loss = (x.clone() ** 2).sum()
piece = x[0]
torch.autograd.grad(loss, [piece])
"""
MENDED = """
import torch

x = torch.rand(3, requires_grad=True)
loss = (x.clone() ** 2).sum()
torch.autograd.grad(loss, [x])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
