"""A tensor without dimensions was indexed, counted or iterated."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-08", "tensor-zero-dim", "0.2"
TITLE = "TypeError: iteration over a 0-d tensor"
RAISES = ("TypeError", "IndexError")
NEEDLES = (
    "of a 0-d tensor",
    "over a 0-d tensor",
    "invalid index of a 0-dim tensor",
    "over a 0-d array",
    "slice() cannot be applied to a 0-dim tensor",
    "too many indices for tensor of dimension 0",
)
PATTERNS = (
    r"(?P<how>len)\(\) of a 0-d tensor",
    r"(?P<how>iteration) over a 0-d tensor",
    r"invalid (?P<how>index) of a 0-dim tensor",
    r"(?P<how>slice)\(\) cannot be applied to a 0-dim tensor",
    r"too many (?P<how>indices) for tensor of dimension 0",
)
OLD = ("IndexError: invalid index of a 0-dim tensor. Use tensor.item() to convert a 0-dim tensor to a Python number",)
WHY = "A loss, a sum or `tensor[0]` of a vector is one number without dimensions: it has no length and no elements to index. Old code reads a loss by `loss.data[0]`, which stopped working in 0.5."
CHECK = "`x.dim() == 0`, `x.shape`."


def explain(event: Event) -> Iterator[Cause]:
    """The tensor by its name where the line or the frames tell."""
    code = code_of(event)
    zero = [fact.name for fact in tensors_in_line(event) if fact.shape == ()]
    name = zero[0] if zero else "x"
    how = {"len": "its length was asked", "iteration": "it was iterated", "slice": "it was sliced"}.get(
        event.facts["how"], "it was indexed"
    )
    old = ".data[0]" in code
    fix = [f"{name}.item()   # the number" + (", in place of .data[0]" if old else "")]
    if not old:
        fix.append(f"{name}.reshape(-1)   # a vector of one element, to iterate or to index")
        if event.facts["how"] == "iteration":
            fix.append("squeeze(0)   # in place of squeeze(), if a batch of one lost its dimension")
    yield Cause(
        CODE,
        NAME,
        what=f"{name if zero else 'the tensor'} is a single number without dimensions, and {how}",
        why="a loss, a sum, or one element of a vector has no dimension to go along",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch

loss = torch.tensor(3.0)
print(loss.data[0])
"""
MENDED = """
import torch

loss = torch.tensor(3.0)
print(loss.item())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
