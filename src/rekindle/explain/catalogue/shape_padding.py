"""A reflecting padding is as large as the input, or the input lacks its batch."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-36", "shape-padding", "0.2"
TITLE = "Padding size should be less than the corresponding input dimension, but got: padding (4, 4) at dimension 3 of input [1, 1, 3, 3]"
RAISES = ("RuntimeError", "NotImplementedError", "ValueError")
NEEDLES = (
    "Padding size should be less than",
    "Padding size 2 is not supported",
    "Padding size 4 is not supported",
    "Padding size 6 is not supported",
    "Only 2D, 3D, 4D, 5D padding with non-constant padding",
    "Padding length too large",
)
PATTERNS = (
    r"Padding size should be less than the corresponding input dimension, but got: padding \((?P<before>\d+), (?P<after>\d+)\) at dimension (?P<dim>\d+) of input ?\[(?P<shape>[\d, x]*)\]",
    r"Padding size (?P<numbers>\d+) is not supported for (?P<dims>\d+)D input tensor",
    r"(?P<only>Only 2D, 3D, 4D, 5D padding with non-constant padding)",
    r"Padding length (?P<long>too large)",
)
OLD: tuple[str, ...] = ()
WHY = "`F.pad` takes two numbers for each side, from the last dimension on. Reflection mirrors what is inside, so it can add at most the size less one; and it takes as many sides as the layout says: 4 numbers for images with their channels."
CHECK = "`x.shape` and the tuple: (left, right, top, bottom)."


def explain(event: Event) -> Iterator[Cause]:
    """The padding and the side, or the number of dimensions."""
    facts = event.facts
    if facts.get("dim"):
        shape = numbers(facts["shape"].replace("x", ","))
        side = shape[int(facts["dim"])] if int(facts["dim"]) < len(shape) else 0
        yield Cause(
            CODE,
            NAME,
            what=f"a reflecting padding of {facts['before']} and {facts['after']} at dimension {facts['dim']}, which has {side}: {shape_text(shape)}",
            why=f"reflection mirrors what is inside without the edge: at most {max(side - 1, 0)} can be added",
            fix=(
                'F.pad(x, pad, mode="replicate")   # repeats the edge, as often as wanted',
                f"pad of at most {max(side - 1, 0)}   # or a larger input",
            ),
            likelihood="certain",
        )
        return
    count = facts.get("numbers", "")
    sides = f"{int(count) // 2} {'side' if count == '2' else 'sides'}" if count else "these sides"
    dims = f" with {facts['dims']} dimensions" if facts.get("dims") else ""
    yield Cause(
        CODE,
        NAME,
        what=f"a padding of {sides} does not go with an input{dims}"
        if not facts.get("long")
        else "the padding has more numbers than the input has dimensions to pad",
        why="reflect, replicate and circular count channels (and the batch): images are [C, H, W] or [N, C, H, W]",
        fix=(
            "F.pad(x[None], pad, mode=mode)[0]   # gives it the missing dimension for the moment",
            "F.pad(x, pad)   # with zeros: any number of dimensions",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.nn import functional as F

mask = torch.ones(28, 28)
F.pad(mask, (2, 2, 2, 2), mode="reflect")
"""
MENDED = """
import torch
from torch.nn import functional as F

mask = torch.ones(28, 28)
F.pad(mask[None], (2, 2, 2, 2), mode="reflect")[0]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
