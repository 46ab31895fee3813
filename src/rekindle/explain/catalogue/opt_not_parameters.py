"""An optimizer was given the model or a method, not its parameters."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-22", "opt-not-parameters", "0.2"
TITLE = "TypeError: 'Net' object is not iterable (in an optimizer)"
RAISES = ("TypeError",)
NEEDLES = ("object is not iterable", "should be an iterable of Tensors")
PATTERNS = (
    r"'(?P<kind>\w+)' object is not iterable",
    r"params argument given to the optimizer should be an iterable of Tensors or dicts, but got (?P<tensor>[\w.]+)",
)
OLD: tuple[str, ...] = (
    "TypeError: params argument given to the optimizer should be an iterable of Tensors or dicts, but got torch.FloatTensor",
)
WHY = "An optimizer takes the parameters: `model.parameters()`, with the brackets. The model itself, the method without brackets or one tensor are no list of parameters."
CHECK = "The first argument of the optimizer."


def explain(event: Event) -> Iterator[Cause]:
    """Only where an optimizer was made: a method, a model or a tensor."""
    kind = event.facts.get("kind", "")
    if kind and not is_in(event, "torch/optim/"):
        return
    if kind in {"method", "function", "builtin_function_or_method"}:
        what, why = (
            "the optimizer was given a method, not what it returns",
            "the brackets behind parameters are missing",
        )
    elif kind == "NoneType":
        what, why = (
            "the optimizer was given None, not parameters",
            "the function that picks the parameters has no return",
        )
    else:
        got = kind or event.facts.get("tensor", "")
        what, why = (
            f"the optimizer was given an object of the class {got}, not its parameters",
            "it takes a list of tensors, or a list of groups",
        )
    fix = (
        ("torch.optim.Adam([tensor], lr=1e-3)   # one tensor, in a list",)
        if event.facts.get("tensor", "")
        else ("torch.optim.Adam(model.parameters(), lr=1e-3)",)
    )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 2)
torch.optim.Adam(model, lr=0.1)
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 2)
torch.optim.Adam(model.parameters(), lr=0.1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
