"""The new shape has another number of elements than the tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._words import product, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-12", "shape-view-size", "0.2"
TITLE = "shape '[16, 400]' is invalid for input of size 9216"
RAISES = ("RuntimeError",)
NEEDLES = ("is invalid for input ",)
PATTERNS = (r"(?:shape|size) '\[(?P<shape>[-\d, x]+)\]' is invalid for input (?:of size|with) (?P<count>[\d']+)",)
OLD = (
    (
        "RuntimeError: invalid argument 2: size '[16 x 400]' is invalid for input with 9216 elements at"
        " ../aten/src/TH/THStorage.cpp:84"
    ),
)
WHY = (
    "`view` and `reshape` keep every element, so that the product of the new sizes has to be their number. Mostly the"
    " features were computed for another image size, or the batch size is written as a number and the last batch of the"
    " epoch is shorter."
)
CHECK = "`x.numel()` against the product of the sizes; does it divide by the batch size?"

_X = re.compile(r"([A-Za-z_][\w.]*)\.(?:view|reshape)\(")


def explain(event: Event) -> Iterator[Cause]:
    """Both counts, and what would fit."""
    shape = tuple(int(size) for size in re.findall(r"-?\d+", event.facts["shape"]))
    count = int(event.facts["count"].replace("'", ""))
    known = product(size for size in shape if size != -1)
    found = _X.search(code_of(event))
    x = found[1] if found else "x"
    met = [fact for fact in tensors_in_line(event) if product(fact.shape) == count]
    came = f" ({met[0].name} {shape_text(met[0].shape)})" if met else ""
    why = f"{' * '.join(str(size) for size in shape if size != -1)} = {known:,}, and the tensor has {count:,}{came}"
    fix = [f"{x}.flatten(1)   # keeps the batch and takes what is there: the same as view({x}.size(0), -1)"]
    if -1 in shape:
        why = f"{count:,} elements do not divide by {known:,}{came}"
        fix = [f"print({x}.shape)   # its number of elements has to be a multiple of {known:,}"]
    elif len(shape) > 1 and shape[0] > 0 and known // shape[0] and count % (known // shape[0]) == 0:
        per = known // shape[0]
        why += f"; it is {count // per} times {per}, so that {shape[0]} was the batch size and this batch has {count // per}"
        fix = [
            f"{x}.view({x}.size(0), {', '.join(map(str, shape[1:]))})   # the batch size that is there, not {shape[0]}",
            "DataLoader(..., drop_last=True)   # or leave the last, shorter batch out",
        ]
    elif len(shape) > 1 and shape[0] > 0 and count % shape[0] == 0:
        per = count // shape[0]
        why += f": {per} for each of {shape[0]}, not {known // shape[0]}; most likely another image size"
        if len(shape) == 2:
            fix.append(f"nn.Linear({per}, ...)   # behind it, where it was {shape[1]}")
    yield Cause(
        CODE,
        NAME,
        what=f"{count:,} elements do not make {shape_text(shape)}",
        why=why,
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch

features = torch.ones(16, 16, 6, 6)
features.view(16, 400)
"""
MENDED = """
import torch

features = torch.ones(16, 16, 6, 6)
features.view(features.size(0), -1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
