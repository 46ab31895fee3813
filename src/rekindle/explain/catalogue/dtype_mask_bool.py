"""A mask or condition of zeros and ones is not of dtype bool."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-16", "dtype-mask-bool", "0.2"
TITLE = "masked_fill_ only supports boolean masks, but got mask with dtype long int"
RAISES = ("RuntimeError",)
NEEDLES = (
    "only supports boolean masks",
    "where expected condition to be a boolean tensor",
    "expected BoolTensor for mask",
    "Expected object of scalar type Bool",
    "expected self to have bool dtype",
    "masked_select: expected BoolTensor",
)
PATTERNS = (
    r"(?P<call>masked_\w+?)_?(?: only supports boolean masks, but got (?:mask with dtype|dtype) (?P<dtype>[\w:. ]+))",
    r"(?P<call>where) expected condition to be a boolean tensor, but got a tensor with dtype (?P<dtype>\w+)",
    r"(?P<call>masked_\w+?)_?: expected BoolTensor for mask",
)
OLD = (
    "RuntimeError: masked_fill_ only supports boolean masks, but got dtype Float",
    "RuntimeError: masked_select: expected BoolTensor for mask",
)
WHY = "A mask says yes or no for each element. Masks made with `torch.ones` or `torch.tril`, read from a file or from a tokenizer are numbers, and become truth values by a comparison."
CHECK = "`mask.dtype`, and whether 1 means keep or drop: `masked_fill` writes where the mask is true."


def explain(event: Event) -> Iterator[Cause]:
    """The function, the dtype and the mask's name."""
    dtype = dtype_name(event.facts.get("dtype", ""))
    met = [fact for fact in tensors_in_line(event) if fact.dtype == dtype]
    name = next((fact.name for fact in met if "mask" in fact.name or "cond" in fact.name), "mask")
    call = event.facts["call"]
    yield Cause(
        CODE,
        NAME,
        what=f"the mask of {call} is {dtype or 'not bool'}, and has to be bool",
        why="it was made of numbers; a comparison makes truth values of them",
        fix=(
            f"{name}.bool()   # where it is not 0",
            *(
                (f"x.masked_fill({name} == 0, value)   # writes where the mask is 0, as in attention",)
                if "fill" in call
                else ()
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

scores, mask = torch.rand(4, 4), torch.tril(torch.ones(4, 4))
scores.masked_fill(mask, float("-inf"))
"""
MENDED = """
import torch

scores, mask = torch.rand(4, 4), torch.tril(torch.ones(4, 4))
scores.masked_fill(mask == 0, float("-inf"))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
