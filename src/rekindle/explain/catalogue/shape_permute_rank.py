"""`permute` was given another number of dimensions than the tensor has."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-05", "shape-permute-rank", "0.2"
TITLE = "permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired ordering of dimensions i.e. input.dim() = 3 is not equal to len(dims) = 4"
RAISES = ("RuntimeError",)
NEEDLES = (
    "length of the desired ordering of dimensions",
    "number of dims don't match in permute",
    "expects a tensor with <= 2 dimensions",
)
PATTERNS = (
    r"input\.dim\(\) = (?P<have>\d+) is not equal to len\(dims\) = (?P<want>\d+)",
    r"number of dims don't match in permute",
    r"t\(\) expects a tensor with <= 2 dimensions, but self is (?P<t>\d+)D",
)
OLD = ("RuntimeError: number of dims don't match in permute",)
WHY = (
    "`permute` has to name every dimension once. `permute(0, 3, 1, 2)` is for a batch of images with four dimensions; one"
    " image has three and wants `permute(2, 0, 1)`. `.t()` turns matrices only."
)
CHECK = "`x.shape`, against the number of arguments."


def explain(event: Event) -> Iterator[Cause]:
    """Both numbers; the line for one image or for a batch."""
    if "t" in event.facts:
        dims = event.facts["t"]
        yield Cause(
            CODE,
            NAME,
            what=f".t() is for matrices, and this tensor has {dims} dimensions",
            why=".t() swaps the two dimensions of a matrix; with more, say which two",
            fix=("x.transpose(-2, -1)   # swaps the last two, and leaves the batch alone",),
            likelihood="certain",
        )
        return
    have, want = event.facts.get("have", ""), event.facts.get("want", "")
    met = [fact for fact in tensors_in_line(event) if str(len(fact.shape)) == have]
    shape = f" ({met[0].name} {shape_text(met[0].shape)})" if met else ""
    fixes = {
        ("3", "4"): (
            "image.permute(2, 0, 1)   # one image: height, width, channels",
            "image.unsqueeze(0).permute(0, 3, 1, 2)   # or as a batch of one",
        ),
        ("4", "3"): ("images.permute(0, 3, 1, 2)   # a batch: the first dimension stays",),
    }
    numbers = (
        f"the tensor has {have} {'dimension' if have == '1' else 'dimensions'} and {want} were named"
        if have
        else "another number of dimensions was named than the tensor has"
    )
    yield Cause(
        CODE,
        NAME,
        what=f"permute has to name every dimension once: {numbers}{shape}",
        why="the order was written for a batch and met one image, or the reverse"
        if {have, want} == {"3", "4"}
        else "a dimension was added or lost before this line (squeeze, unsqueeze, an index)",
        fix=fixes.get((have, want), ("print(x.shape)   # then name every dimension it has: permute(0, ...)",)),
        likelihood="certain",
    )


EXAMPLE = """
import torch

image = torch.ones(224, 224, 3)
image.permute(0, 3, 1, 2)
"""
MENDED = """
import torch

image = torch.ones(224, 224, 3)
image.permute(2, 0, 1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
