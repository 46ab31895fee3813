"""A mask of True and False has another shape than the tensor it picks from."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-27", "index-mask-shape", "0.2"
TITLE = "The shape of the mask [5] at index 0 does not match the shape of the indexed tensor [4, 3] at index 0"
RAISES = ("IndexError",)
NEEDLES = ("The shape of the mask [",)
PATTERNS = (
    r"The shape of the mask \[(?P<mask>[\d, ]*)\] at index (?P<at>\d+) ?does not match the shape of the indexed tensor \[(?P<tensor>[\d, ]*)\] at index (?P<there>\d+)",
)
OLD: tuple[str, ...] = ()
WHY = "A boolean mask says of each element whether it is taken, so that its shape is that of the first dimensions of the tensor."
CHECK = "Print both shapes; is the mask made of this batch, or of one before or after a filter?"


def explain(event: Event) -> Iterator[Cause]:
    """Both shapes, and the dimension in which they differ."""
    mask, tensor = numbers(event.facts["mask"]), numbers(event.facts["tensor"])
    at, there = int(event.facts["at"]), int(event.facts["there"])
    fix = ["print(x.shape, mask.shape)   # in front of the line; the mask has to be made of the same batch as x"]
    if len(mask) == 1 and mask[0] in tensor:
        dim = tensor.index(mask[0])
        fix.insert(0, f"x[{':, ' * dim}mask]   # if it is meant for dimension {dim}, which has {mask[0]}")
    elif len(mask) > 1 and 1 in mask:
        fix.insert(0, "mask.squeeze()   # without its dimension of 1")
    sizes = f": {mask[at]} and {tensor[there]}" if at < len(mask) and there < len(tensor) else ""
    yield Cause(
        CODE,
        NAME,
        what=f"a mask of shape {shape_text(mask)} is used on a tensor of shape {shape_text(tensor)}{sizes}",
        why="a mask says yes or no for each element of the first dimensions, so that the sizes have to be equal",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch

scores = torch.ones(4, 3)
keep = torch.ones(5, dtype=torch.bool)
scores[keep]
"""
MENDED = """
import torch

scores = torch.ones(4, 3)
keep = torch.ones(4, dtype=torch.bool)
scores[keep]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
