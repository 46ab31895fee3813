"""A piece of unbind, split, chunk or of a loop over a tensor is changed in place."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-24", "grad-view-of-many", "0.2"
TITLE = "Output 0 of UnbindBackward0 is a view and is being modified inplace. This view is the output of a function that returns multiple views."
RAISES = ("RuntimeError",)
NEEDLES = (
    "is a view and is being modified inplace",
    "is a view and its base or another view of its base has been modified inplace",
)
PATTERNS = (
    r"Output (?P<number>\d+) of (?P<call>\w{1,60}) is a view and is being modified inplace",
    r"Output (?P<number>\d+) of (?P<call>\w{1,60}) is a view and its base or another view of its base has been modified inplace",
)
OLD = (
    "RuntimeError: Output 0 of SplitBackward is a view and is being modified inplace. This view is the output of a function that returns multiple views.",
)
WHY = (
    "`unbind` (a loop over a tensor is one), `split` and `chunk` give several views of one tensor. Autograd follows a change of one view, not"
    " of one among several. Views made under `no_grad`, or inside a function of one's own, are refused for the same reason."
)
CHECK = (
    "The line: `+=`, `*=`, `x[...] = ` or a method that ends in `_` on something that a loop, `split` or `chunk` gave."
)


def explain(event: Event) -> Iterator[Cause]:
    """Which function gave the views."""
    call = event.facts["call"].removesuffix("0").removesuffix("Backward").lower()
    source = "a loop over a tensor, or unbind" if call == "unbind" else call
    met = next((fact for fact in tensors_in_line(event) if fact.shape), None)
    name = met.name if met else "part"
    yield Cause(
        CODE,
        NAME,
        what=f"a piece that {source} gave is changed in place",
        why="it is one of several views of one tensor, and autograd cannot follow a change of one of them",
        fix=(
            f"{name} = {name} * 2   # a new tensor in place of *=, +=, and methods that end in _",
            "x[index]   # in place of a loop's piece: a single view may be changed",
            "part.clone()   # in front, if it has to be in place",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

x = torch.ones(3, 2, requires_grad=True) * 1
for row in x:
    row *= 2
"""
MENDED = """
import torch

x = torch.ones(3, 2, requires_grad=True) * 1
rows = [row * 2 for row in x]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
