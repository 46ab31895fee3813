"""Tensors that are to be joined differ in more than the dimension they are joined along."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in, tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-09", "shape-cat", "0.2"
TITLE = "Sizes of tensors must match except in dimension 1. Expected size 36 but got size 37 for tensor number 1 in the list."
RAISES = ("RuntimeError",)
NEEDLES = ("Sizes of tensors must match except in dimension", "Tensors must have same number of dimensions")
PATTERNS = (
    r"Sizes of tensors must match except in dimension (?P<dim>\d+)\. Expected size (?P<a>\d+) but got size (?P<b>\d+) for tensor number (?P<number>\d+) in the list",
    r"Sizes of tensors must match except in dimension (?P<dim>\d+)\. Got (?P<a>\d+) and (?P<b>\d+) in dimension (?P<at>\d+)",
    r"Tensors must have same number of dimensions: got (?P<left>\d+) and (?P<right>\d+)",
)
OLD = (
    (
        "RuntimeError: invalid argument 0: Sizes of tensors must match except in dimension 0. Got 3 and 4 in dimension 1 at"
        " ../aten/src/TH/generic/THTensor.cpp:711"
    ),
)
WHY = (
    "`torch.cat` lays tensors one behind the other along `dim`; all other dimensions have to be equal. In a U-Net an odd"
    " size is the usual cause: 37 goes down to 18 and comes up as 36. The other one is a wrong `dim`."
)
CHECK = "`[t.shape for t in tensors]` and `dim`."


def explain(event: Event) -> Iterator[Cause]:
    """Both sizes; an odd size of a skip connection is told from a wrong dim."""
    facts = event.facts
    if "at" in facts and is_in(event, "collate", "default_collate", "collate_tensor_fn"):
        return  # the collate function of old releases: shape-collate-stack
    met = [fact for fact in tensors_in_line(event) if fact.shape]
    seen = f" ({', '.join(f'{fact.name} {shape_text(fact.shape)}' for fact in met[:4])})" if len(met) > 1 else ""
    if "left" in facts:
        yield Cause(
            CODE,
            NAME,
            what=f"tensors of {facts['left']} and of {facts['right']} dimensions cannot be joined{seen}",
            why="torch.cat adds no dimensions",
            fix=(
                "x.unsqueeze(...)   # give the smaller one the missing dimension",
                "torch.stack([...])   # if all are equal and a new dimension is meant",
            ),
            likelihood="certain",
        )
        return
    dim, a, b = int(facts["dim"]), int(facts["a"]), int(facts["b"])
    near = abs(a - b) == 1 and dim == 1 and min(a, b) > 3
    last = facts.get("number", "")
    which = f"tensor {last} of the list" if last else "one of them"
    x, y = (met[0].name, met[-1].name) if len(met) > 1 else ("x", "skip")
    crop = f"F.interpolate({x}, size={y}.shape[-2:])   # or crop or pad one of them, before they are joined"
    other = "print([t.shape for t in tensors])   # in front of the line; is another dim meant?"
    swap = f"torch.cat([...], dim={1 - dim})   # if the tensors differ along that one" if dim in {0, 1} else ""
    yield Cause(
        CODE,
        NAME,
        what=f"joined along dimension {dim}, all other sizes have to be equal: {a} and {b} ({which}){seen}",
        why="one size is odd: going down halves it and rounds, coming up doubles it"
        if near
        else "the tensors differ in a dimension other than the one they are joined along, or another dim is meant",
        fix=(crop, "images whose sides divide by 2**depth   # then nothing is rounded")
        if near
        else tuple(line for line in (swap, other) if line),
    )


EXAMPLE = """
import torch

skip = torch.ones(1, 8, 37, 37)
up = torch.ones(1, 8, 36, 36)
torch.cat([up, skip], dim=1)
"""
MENDED = """
import torch
from torch.nn import functional as F

skip = torch.ones(1, 8, 37, 37)
up = torch.ones(1, 8, 36, 36)
torch.cat([F.interpolate(up, size=skip.shape[-2:]), skip], dim=1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
