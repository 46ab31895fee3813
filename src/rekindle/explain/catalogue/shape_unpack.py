"""A shape or a batch is taken apart into another number of names than it has parts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-17", "shape-unpack", "0.2"
TITLE = "ValueError: not enough values to unpack (expected 4, got 3)"
RAISES = ("ValueError",)
NEEDLES = ("values to unpack (expected",)
PATTERNS = (
    r"not enough values to unpack \(expected (?:at least )?(?P<want>\d+), got (?P<have>\d+)\)",
    r"too many values to unpack \(expected (?P<want>\d+)(?:, got (?P<have>\d+))?\)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`b, c, h, w = x.shape` needs a tensor of four dimensions: one image without a batch has three. In a loop over a"
    " `DataLoader` it is the number of things that the data set returns for a sample: `TensorDataset(images)` gives one."
)
CHECK = "`x.shape` in front of the line; `dataset[0]` for a loop over a loader."

_SHAPE = re.compile(r"=\s*(?P<tensor>[^=\s][^=]{0,200}?)\.(?:shape\b|size\(\))\s*$")
_SIMPLE = re.compile(r"[A-Za-z_][\w.]*")
_LOOP = re.compile(r"^(?:async )?for (?P<names>[^:]+?) in (?P<over>.+?):?$")
_LOADER = re.compile(r"load|DataLoader|batches|\bdl\b")


def explain(event: Event) -> Iterator[Cause]:
    """Only where the line takes a shape apart or loops over a loader; all else is ordinary Python."""
    code = code_of(event)
    want, have = event.facts["want"], event.facts.get("have", "")
    shape, loop = _SHAPE.search(code), _LOOP.match(code)
    if shape:
        name = shape["tensor"] if _SIMPLE.fullmatch(shape["tensor"]) else "x"
        met = next((fact for fact in tensors_in_line(event) if fact.name == name), None)
        seen = f": {shape_text(met.shape)}" if met else ""
        dims = str(len(met.shape)) if met else have
        more = not dims or int(dims) > int(want)
        yield Cause(
            CODE,
            NAME,
            what=f"{name if name != 'x' else 'the tensor'} has {dims or f'more than {want}'} dimensions, and its shape is taken apart into {want}{seen}",
            why="there is one dimension too many"
            if more
            else "a dimension is missing, mostly the batch (one image) or the channels (grey images)",
            fix=(f"*_, h, w = {name}.shape   # takes the last ones, however many stand before",)
            if more
            else (
                f"{name} = {name}.unsqueeze(0)   # a batch of one",
                f"*_, h, w = {name}.shape   # or only what is needed, from the end",
            ),
            likelihood="certain",
        )
    elif loop and _LOADER.search(loop["over"]):
        gives = f"{have} thing{'s' if have != '1' else ''}" if have else f"more than {want}"
        yield Cause(
            CODE,
            NAME,
            what=f"a batch has {gives}, and the loop takes it apart into {want}",
            why="a batch has as many parts as the data set returns for one sample (or it is a single tensor or a dict)",
            fix=(
                "print(type(dataset[0]), len(dataset[0]))   # what one sample is",
                "for (images,) in loader:   # a TensorDataset of one tensor gives a tuple of one"
                if have == "1"
                else f"for {loop['names']}, *rest in loader:   # takes what is more",
            ),
            likelihood="likely",
        )


EXAMPLE = """
import torch

image = torch.ones(3, 32, 32)
b, c, h, w = image.shape
"""
MENDED = """
import torch

image = torch.ones(3, 32, 32).unsqueeze(0)
b, c, h, w = image.shape
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
