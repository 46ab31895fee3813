"""A number was asked of a tensor with more than one element."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-11", "dtype-list-of-tensors", "0.2"
TITLE = "ValueError: only one element tensors can be converted to Python scalars"
RAISES = ("ValueError", "RuntimeError", "TypeError")
NEEDLES = (
    "only one element tensors can be converted",
    "cannot be converted to Scalar",
    "only integer tensors of a single element",
)
PATTERNS = (
    r"only one element tensors can be converted to Python scalars",
    r"a Tensor with (?P<count>\d+) elements cannot be converted to Scalar",
    r"(?P<index>only integer tensors of a single element) can be converted to an index",
)
OLD = ("RuntimeError: a Tensor with 2 elements cannot be converted to Scalar",)
WHY = (
    "`torch.tensor([a, b])` reads numbers, and a tensor of several elements inside the list is no number: tensors are joined"
    " with `torch.stack` or `torch.cat`. The same is said when `.item()`, `float()` or `int()` is asked of more than one"
    " element, as of a loss with `reduction='none'`."
)
CHECK = "The shapes of the items; `loss.shape` if it is about a loss."

_INDEXES = re.compile(r"[\w\])]\[|\brange\(")
_MAKES = re.compile(r"(?:torch\.(?:tensor|as_tensor|\w*Tensor)|np\.array|numpy\.array)\(")


def explain(event: Event) -> Iterator[Cause]:
    """A list of tensors, or a number asked of a tensor: the user's own line decides."""
    code = code_of(event)
    makes = bool(_MAKES.search(code)) or not code
    count = event.facts.get("count", "")
    met = next((fact for fact in tensors_in_line(event) if fact.shape not in {(), (1,)}), None)
    seen = f" ({met.name} {shape_text(met.shape)})" if met else ""
    join = (
        "torch.stack(tensors)   # equal shapes, a new dimension in front",
        "torch.cat(tensors)   # one behind the other",
    )
    one = ("x.mean().item()   # or sum(): one number of it", "x.tolist()   # all of them")
    if event.facts.get("index") and code and (_INDEXES.search(code) or not _MAKES.search(code)):
        asked = met or next(iter(tensors_in_line(event)), None)
        name = asked.name if asked else "index"
        what = f"{f'{name} {shape_text(asked.shape)} {asked.dtype}' if asked else 'a tensor'} stands where one whole number is wanted: the index of a list, a range, a size"
        why = "only a tensor that holds one whole number can stand there; lists know no index by a tensor of several"
        fix: tuple[str, ...] = (
            f"int({name})   # of a tensor with one element",
            f"[items[i] for i in {name}.tolist()]   # several elements of a list",
        )
    elif makes and not count:
        what = f"a list of tensors with several elements cannot be made into one tensor this way{seen}"
        why = "torch.tensor reads a list of numbers; tensors are joined"
        fix = join if code else (*join, one[0])
    else:
        what = f"a tensor of {count or 'several'} elements is no single number{seen}"
        why = "item(), float() and int() take one element; a loss with reduction='none' has one for each sample"
        fix = one
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain" if code or count else "likely")


EXAMPLE = """
import torch

losses = [torch.ones(2), torch.ones(2)]
torch.tensor(losses)
"""
MENDED = """
import torch

losses = [torch.ones(2), torch.ones(2)]
torch.stack(losses)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
