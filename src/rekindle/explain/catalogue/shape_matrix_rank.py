"""A product for matrices was given tensors of another number of dimensions."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-34", "shape-matrix-rank", "0.2"
TITLE = "RuntimeError: batch1 must be a 3D tensor"
RAISES = ("RuntimeError",)
NEEDLES = (
    "must be a 3D tensor",
    "must be a matrix",
    "1D tensors expected",
    "vector + matrix @ vector expected",
    "must be batches of square matrices",
)
PATTERNS = (
    r"(?P<name>batch[12]|mat2|self) must be a (?P<want>3D) tensor",
    r"(?P<name>self|mat2|mat1|tensor) must be a (?P<want>matrix)",
    r"(?P<want>1D) tensors expected, but got (?P<a>\d+)D and (?P<b>\d+)D tensors",
    r"(?P<want>vector) \+ matrix @ vector expected, got (?P<out>\d+), (?P<a>\d+), (?P<b>\d+)",
    r"(?P<call>[\w.]{1,60}): A must be batches of (?P<want>square) matrices, but they are (?P<a>\d+) by (?P<b>\d+) matrices",
)
OLD: tuple[str, ...] = ()
WHY = "`mm` takes two matrices, `bmm` two batches of matrices, `dot` two vectors, and none of them broadcasts. `matmul`, written `@`, takes all of these and broadcasts what stands in front."
CHECK = "`a.shape` and `b.shape` in front of the call."
_TAKES = {
    "3D": "bmm takes batches of matrices, 3 dimensions each",
    "matrix": "mm takes matrices, 2 dimensions each",
    "1D": "dot takes vectors, 1 dimension each",
    "vector": "mv takes a matrix and a vector",
}


def explain(event: Event) -> Iterator[Cause]:
    """What the function takes, and what it got."""
    facts = event.facts
    met = tensors_in_line(event)
    seen = f" ({', '.join(f'{fact.name} {shape_text(fact.shape)}' for fact in met[:3])})" if met else ""
    if facts["want"] == "square":
        yield Cause(
            CODE,
            NAME,
            what=f"{facts['call']} was given matrices of {facts['a']} by {facts['b']}{seen}",
            why="it is made for square matrices",
            fix=(
                "torch.linalg.lstsq(a, b).solution   # solves a system that is not square",
                "torch.linalg.pinv(a)   # the pseudo-inverse",
            ),
            likelihood="certain",
        )
        return
    got = f"{facts['a']}D and {facts['b']}D" if facts.get("a") else "another number of dimensions"
    names = [fact.name for fact in met[:2]] if len(met) > 1 else ["a", "b"]
    yield Cause(
        CODE,
        NAME,
        what=f"{_TAKES[facts['want']]}, and it got {got}{seen}",
        why="mm, bmm, mv and dot do not broadcast; @ does",
        fix=(
            f"{names[0]} @ {names[1]}   # matmul: vectors, matrices and batches of them",
            *(
                (f"torch.bmm({names[0]}.unsqueeze(0), {names[1]}.unsqueeze(0))   # a batch of one",)
                if facts["want"] == "3D"
                else ()
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

attention, value = torch.ones(5, 7), torch.ones(7, 16)
torch.bmm(attention, value)
"""
MENDED = """
import torch

attention, value = torch.ones(5, 7), torch.ones(7, 16)
attention @ value
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
