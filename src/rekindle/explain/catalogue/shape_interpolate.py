"""The size of an interpolation has not as many numbers as the input has sides."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import numbers
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-35", "shape-interpolate", "0.2"
TITLE = "Input and output must have the same number of spatial dimensions, but got input with spatial dimensions of [28] and output size of (56, 56)"
RAISES = ("ValueError", "NotImplementedError")
NEEDLES = (
    "same number of spatial dimensions",
    "either size or scale_factor should be defined",
    "only one of size or scale_factor",
    "Input Error: Only 3D, 4D and 5D input Tensors",
)
PATTERNS = (
    r"same number of spatial dimensions, but got input with spatial dimensions of \[(?P<sides>[\d, ]*)\] and (?:output size|scale_factor) of [(\[]?(?P<size>[\d., ]+)",
    r"(?P<neither>either size or scale_factor should be defined)",
    r"(?P<both>only one of size or scale_factor should be defined)",
    r"Input Error: Only 3D, 4D and 5D input Tensors supported \(got (?P<dims>\d+)D\) for the modes",
)
OLD: tuple[str, ...] = ()
WHY = "`F.interpolate` reads the first two dimensions as batch and channels; the rest are sides. An image of `[3, H, W]` without a batch is read as a batch of 3 with one side."
CHECK = "`x.dim()`: 3 for sequences, 4 for images, 5 for volumes, the batch counted."


def explain(event: Event) -> Iterator[Cause]:
    """Sides and size; an image without its batch is the usual case."""
    facts = event.facts
    if facts.get("neither") or facts.get("both"):
        yield Cause(
            CODE,
            NAME,
            what="an interpolation was given " + ("no size" if facts.get("neither") else "a size and a scale_factor"),
            why="one of the two decides how large the result is",
            fix=("F.interpolate(x, size=(224, 224))", "F.interpolate(x, scale_factor=2)"),
            likelihood="certain",
        )
        return
    sides = numbers(facts.get("sides", ""))
    wanted = [part for part in facts.get("size", "").split(",") if part.strip()]
    if facts.get("dims"):
        what = f"an interpolation was given {facts['dims']} dimensions, and takes 3 to 5 with batch and channels"
    else:
        what = f"the input has {len(sides)} {'side' if len(sides) == 1 else 'sides'} {list(sides)} behind batch and channels, and the size has {len(wanted)}"
    lacks = not sides or len(sides) < len(wanted)
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="the first two dimensions are batch and channels, whatever they are meant as",
        fix=("F.interpolate(image.unsqueeze(0), size=size).squeeze(0)   # one image gets its batch dimension",)
        if lacks
        else (
            f"F.interpolate(x, size={tuple(wanted[i].strip() if i < len(wanted) else n for i, n in enumerate(sides))})   # one number for each side".replace(
                "'", ""
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.nn import functional as F

image = torch.ones(3, 28, 28)
F.interpolate(image, size=(56, 56), mode="bilinear")
"""
MENDED = """
import torch
from torch.nn import functional as F

image = torch.ones(3, 28, 28)
F.interpolate(image.unsqueeze(0), size=(56, 56), mode="bilinear").squeeze(0)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
