"""A largest or smallest value was asked of a tensor without elements."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-22", "tensor-empty-reduction", "0.2"
TITLE = "max(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim with the 'dim' argument."
RAISES = ("RuntimeError", "IndexError")
NEEDLES = ("xpected reduction dim", "cannot perform reduction function", "tensor has no dimension with non-zero")
PATTERNS = (
    r"(?P<call>\w{1,60})\(\): Expected reduction dim to be specified for input\.numel\(\) == 0",
    r"(?P<call>\w{1,60})\(\): Expected reduction dim (?P<dim>-?\d+) to have non-zero size",
    r"cannot perform reduction function (?P<call>\w+) on (?:a )?tensor with no elements because the operation does not have an identity",
)
OLD = (
    "RuntimeError: cannot perform reduction function max on tensor with no elements because the operation does not have an identity",
)
WHY = "A sum of nothing is 0, but nothing has no largest value. The tensor became empty earlier: a filter that let nothing through, detections that were none, a batch without a class."
CHECK = "`x.shape` in front of the line: which filter made it empty?"


def explain(event: Event) -> Iterator[Cause]:
    """Which reduction, and the tensor that is empty."""
    met = next((fact for fact in tensors_in_line(event) if 0 in fact.shape), None)
    name = met.name if met else "x"
    seen = f" {shape_text(met.shape)}" if met else ""
    yield Cause(
        CODE,
        NAME,
        what=f"{event.facts['call']} of {name if met else 'a tensor'}{seen}, which has no elements",
        why="something in front let nothing through: a filter, a mask, a slice, detections that were none",
        fix=(
            f"if {name}.numel():   # in front: nothing is a case of its own",
            f"print({name}.shape)   # after each step that makes it smaller: where does it become empty?",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

scores = torch.tensor([0.2, 0.4])
kept = scores[scores > 0.5]
kept.max()
"""
MENDED = """
import torch

scores = torch.tensor([0.2, 0.4])
kept = scores[scores > 0.5]
print(kept.max() if kept.numel() else "nothing found")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
