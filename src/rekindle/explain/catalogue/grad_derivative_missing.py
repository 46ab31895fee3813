"""An operation has no derivative, or no second one."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-07", "grad-derivative-missing", "0.2"
TITLE = "the derivative for '_cdist_backward' is not implemented."
RAISES = ("NotImplementedError", "RuntimeError")
NEEDLES = (
    "the derivative for '",
    "derivative for ",
    "is not differentiable twice",
    "is not differentiable with respect to argument",
)
PATTERNS = (
    r"the derivative for '(?P<name>(?!target')\w+)' is not implemented",
    r"derivative for (?P<name>\w+) is not implemented",
    r"The function '(?P<name>\w+)' is not differentiable with respect to argument '(?P<argument>(?!target|weight|pos_weight|label|mask)\w+)'",
)
OLD = ("RuntimeError: derivative for cdist_backward is not implemented",)
WHY = (
    "Somebody has to write down the derivative of each operation, and for some nobody did; more often it is the second one that"
    " is missing, which a gradient penalty or a Hessian (`create_graph=True`) needs."
)
CHECK = (
    "The operation in quotes: with `backward` in its name it is the second derivative. Is `create_graph=True` in use?"
)


def explain(event: Event) -> Iterator[Cause]:
    """First or second derivative, by the name."""
    name = event.facts["name"]
    plain = name.strip("_").removesuffix("_backward")
    second = "backward" in name
    write = (
        "((a[:, None] - b[None]) ** 2).sum(-1).clamp_min(1e-12).sqrt()   # cdist from parts that have all derivatives"
        if plain == "cdist"
        else f"write {plain} with operations that have derivatives, or as a torch.autograd.Function of your own"
    )
    yield Cause(
        CODE,
        NAME,
        what=f"{plain} has no {'second ' if second else ''}derivative",
        why="a gradient of a gradient is asked for (create_graph=True, a penalty or a Hessian), and this operation has the first alone"
        if second
        else "gradients flow through an operation that has none",
        fix=(write, "x.detach()   # in front of it, if no gradient is meant to flow there"),
        likelihood="certain",
    )


EXAMPLE = """
import torch

x = torch.ones(2, 3, requires_grad=True)
(slope,) = torch.autograd.grad(torch.cdist(x, x).sum(), x, create_graph=True)
slope.sum().backward()
"""
MENDED = """
import torch

x = torch.ones(2, 3, requires_grad=True)
distances = ((x[:, None] - x[None]) ** 2).sum(-1).clamp_min(1e-12).sqrt()
(slope,) = torch.autograd.grad(distances.sum(), x, create_graph=True)
slope.sum().backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
