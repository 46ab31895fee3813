"""The target of a loss carries gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-06", "grad-derivative-target", "0.2"
TITLE = "not differentiable with respect to argument 'target'. This input cannot have requires_grad True."
RAISES = ("RuntimeError", "AssertionError", "NotImplementedError")
NEEDLES = (
    "is not differentiable with respect to argument",
    "derivative for 'target'",
    "compute the gradient w.r.t. targets",
)
PATTERNS = (
    r"The function '(?P<loss>\w+)' is not differentiable with respect to argument '(?P<argument>target|weight|pos_weight|labels?|mask)'",
    r"the derivative for '(?P<argument>target)' is not implemented",
    r"nn criterions don't compute the gradient w\.r\.t\. targets",
)
OLD = (
    "RuntimeError: the derivative for 'target' is not implemented",
    "AssertionError: nn criterions don't compute the gradient w.r.t. targets - please mark these variables as not requiring gradients",
)
WHY = (
    "The second argument of the loss hangs on a graph: the output of a teacher or of another network that was not detached, or"
    " input and target are swapped. Several losses (MSE, L1, BCE, cross entropy with probabilities) accept that by now without a"
    " word; then gradients flow into the network that made the target, which is rarely meant."
)
CHECK = "`target.requires_grad`, `target.grad_fn`."


def explain(event: Event) -> Iterator[Cause]:
    """Which loss and which tensor."""
    loss = event.facts.get("loss", "")
    argument = event.facts.get("argument") or "target"
    line = tensors_in_line(event)
    name = next((fact.name for fact in reversed(line) if fact.requires_grad), "target")
    given = re.search(r"\(\s*(\w+)\s*,\s*(\w+)\s*[,)]", code_of(event))
    first = next((fact for fact in line if given and fact.name == given[1]), None)
    both = first is not None and not first.requires_grad and name != first.name
    yield Cause(
        CODE,
        NAME,
        what=f"{name}, the {argument} of {loss or 'the loss'}, requires gradients",
        why="input and target may be swapped: the first argument requires none"
        if both
        else "it is the output of a network (a teacher, a second model) that was not detached",
        fix=(f"criterion(pred, {name}.detach())", "with torch.no_grad(): target = teacher(x)   # where it is made"),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn
from torch.nn import functional as F

student, teacher = nn.Linear(2, 1), nn.Linear(2, 1)
x = torch.ones(4, 2)
target = teacher(x)
F.soft_margin_loss(student(x), target)
"""
MENDED = """
import torch
from torch import nn
from torch.nn import functional as F

student, teacher = nn.Linear(2, 1), nn.Linear(2, 1)
x = torch.ones(4, 2)
target = teacher(x)
F.soft_margin_loss(student(x), target.detach())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
