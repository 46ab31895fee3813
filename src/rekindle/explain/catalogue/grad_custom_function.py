"""An autograd.Function of one's own breaks the rules of forward and backward."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-26", "grad-custom-function", "0.2"
TITLE = "RuntimeError: function SquareBackward returned an incorrect number of gradients (expected 2, got 1)"
RAISES = ("RuntimeError", "TypeError")
NEEDLES = (
    "returned an incorrect number of gradients",
    "Legacy autograd function with non-static forward",
    "returned an invalid gradient at index",
    "save_for_backward can only save variables",
)
PATTERNS = (
    r"function (?P<name>\w{1,80}) returned an incorrect number of gradients \(expected (?P<want>\d+), got (?P<have>\d+)\)",
    r"(?P<legacy>Legacy autograd function with non-static forward)",
    r"[Ff]unction (?P<name>\w{1,80}) returned an invalid gradient at index (?P<index>\d+) - (?:got|expected)[^\n]{0,20}? \[(?P<got>[\d, ]*)\] but expected shape compatible with \[(?P<shape>[\d, ]*)\]",
    r"[Ff]unction (?P<name>\w{1,80}) returned an invalid gradient at index (?P<index>\d+) - (?P<other>[^\n]{1,120})",
    r"save_for_backward can only save variables, but argument (?P<argument>\d+) is of type (?P<got>\w+)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`forward` and `backward` are static methods with a `ctx`. `backward` gives one gradient for each argument that `forward` took, in their"
    " order, `None` for what is no tensor, each of the shape of its argument. `ctx.save_for_backward` keeps tensors; other values become attributes of `ctx`."
)
CHECK = "`torch.autograd.gradcheck(Function.apply, (x.double().requires_grad_(),))`."


def explain(event: Event) -> Iterator[Cause]:
    """Which rule, and this function's numbers."""
    fix: tuple[str, ...]
    facts = event.facts
    name = facts.get("name", "").removesuffix("Backward") or "the autograd.Function"
    if facts.get("legacy"):
        what = "an autograd.Function has a forward that is no static method"
        why = "since PyTorch 1.5 a Function is not instantiated"
        fix = (
            "@staticmethod   # in front of forward(ctx, x) and of backward(ctx, grad)",
            "Square.apply(x)   # in place of Square()(x)",
        )
    elif facts.get("want"):
        what = f"backward of {name} gives {facts['have']}, and forward took {facts['want']} arguments"
        why = "one gradient is wanted for each argument of forward, in their order"
        fix = (
            f"return {', '.join(['grad'] + ['None'] * (int(facts['want']) - 1))}   # None for what is no tensor or needs none",
        )
    elif facts.get("argument"):
        what = f"argument {facts['argument']} of save_for_backward is of the class {facts['got']}"
        why = "it keeps tensors alone"
        fix = ("ctx.scale = scale   # numbers and settings are attributes of ctx",)
    elif "shape" in facts and facts["shape"] is not None and facts.get("got") is not None and not facts.get("other"):
        what = f"backward of {name} gives [{facts['got']}] for argument {facts['index']}, which has the shape [{facts['shape']}]"
        why = "a gradient has the shape of what it is the gradient of"
        fix = (
            "return grad.expand(shape)   # what forward summed up",
            "return grad.sum(dim)   # what forward broadcast",
        )
    else:
        what = (
            f"backward of {name} gives something else than a gradient for argument {facts['index']}: {facts['other']}"
        )
        why = "a gradient has the shape, dtype and device of what it is the gradient of"
        fix = ("return grad.to(x.dtype)   # and of its shape",)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor

Scale.apply(torch.ones(3, requires_grad=True), 2).sum().backward()
"""
MENDED = """
import torch

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None

Scale.apply(torch.ones(3, requires_grad=True), 2).sum().backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
