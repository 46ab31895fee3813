"""A dimension is named that the tensor does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, running, tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-13", "shape-dim-range", "0.2"
TITLE = "Dimension out of range (expected to be in range of [-1, 0], but got 1)"
RAISES = ("IndexError", "RuntimeError")
NEEDLES = (
    "imension out of range",
    "too many indices for tensor of dimension",
    "but tensor has no dimensions",
    "tuple index out of range",
)
PATTERNS = (
    r"[dD]imension out of range \(expected to be in range of \[(?P<low>-?\d+), (?P<high>\d+)\], but got (?P<got>-?\d+)\)",
    r"too many indices for tensor of dimension (?P<dims>\d+)",
    r"^IndexError: (?P<tuple>tuple index out of range)$",
    r"Dimension specified as (?P<got>-?\d+) but tensor has no dimensions",
)
OLD = ("RuntimeError: dimension out of range (expected to be in range of [-1, 0], but got 1)",)
WHY = (
    "The tensor has fewer dimensions than the line takes for granted. Mostly a `squeeze()` without a number took out the"
    " batch too when it had one sample, an index took a dimension away, or a vector of scores met a line that was written"
    " for a batch of them."
)
CHECK = "`x.shape` in front of the line; look for `.squeeze()` without a number before it."


def explain(event: Event) -> Iterator[Cause]:
    """How many dimensions there are, and which was asked for."""
    facts = event.facts
    if "tuple" in facts:
        found = _SHAPE.search(code_of(event))
        if found:
            yield _index_of_shape(event, found[1], int(found[2]))
        return
    dims = int(facts["dims"]) if "dims" in facts else -int(facts.get("low") or 0)
    got = int(facts.get("got") or dims)
    if ".unsqueeze(" in code_of(event) and dims:  # it may also name the place behind the last dimension
        dims -= 1
    met = [fact for fact in tensors_in_line(event) if len(fact.shape) in ({0, 1} if dims == 1 else {dims})]
    met = met if len(met) == 1 else []
    seen = f" ({met[0].name} {shape_text(met[0].shape)})" if met else ""
    x = met[0].name if met else "x"
    has = (
        "no dimensions"
        if dims == 0
        else ("1 dimension" if met or "dims" in facts else "at most 1 dimension")
        if dims == 1
        else f"{dims} dimensions"
    )
    squeezed = ".squeeze()" in code_of(event)
    asked = f"dimension {got} was asked for" if "dims" not in facts else "more indices were given"
    module = running(event)
    within = module is not None and "dim" not in module.settings  # a pooling, say: it asks for its own dimensions
    fix = (
        [f"dim=-1   # the last dimension, however many there are; here that is {max(dims - 1, 0)}"]
        if "dims" not in facts and not within
        else []
    )
    fix += [
        f"{x}.unsqueeze(0)   # if a batch of one lost its batch dimension",
        "x.squeeze(1)   # in place of squeeze(), which takes out the batch too when it is 1",
    ]
    yield Cause(
        CODE,
        NAME,
        what=f"the tensor has {has} and {asked}{seen}",
        why="squeeze() without a number takes out every dimension of size 1, the batch too"
        if squeezed
        else "an index, a squeeze() or a single sample left the tensor with fewer dimensions than this line takes for granted",
        fix=tuple(fix),
        likelihood="certain",
    )


_SHAPE = re.compile(r"(\w*)\)?\.(?:shape|size\(\))\[(-?\d+)\]")


def _index_of_shape(event: Event, name: str, index: int) -> Cause:
    met = [fact for fact in tensors_in_line(event) if fact.name == name]
    seen = f" ({name} {shape_text(met[0].shape)})" if met else ""
    return Cause(
        CODE,
        NAME,
        what=f"the size of dimension {index} was asked for, and the tensor has fewer dimensions{seen}",
        why="an index, a squeeze() or a single sample left the tensor with fewer dimensions than this line takes for granted",
        fix=(
            "x.unsqueeze(0)   # if a batch of one lost its batch dimension",
            "print(x.shape)   # in front of the line",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

scores = torch.ones(1, 10).squeeze()  # a batch of one loses its batch dimension too
scores.softmax(dim=1)
"""
MENDED = """
import torch

scores = torch.ones(1, 10)
scores.softmax(dim=1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
