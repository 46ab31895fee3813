"""A feature map reached a Linear without being flattened."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._matrices import is_unflattened
from rekindle.explain.catalogue._modules import called, first_input, running
from rekindle.explain.catalogue._words import product, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-22", "shape-missing-flatten", "0.2"
TITLE = "mat1 and mat2 shapes cannot be multiplied (416x26 and 5408x10)"
RAISES = ("RuntimeError",)
NEEDLES = ("mat1 and mat2 shapes cannot be multiplied", "size mismatch, m1:", "must have same reduction dim, but got")
PATTERNS = (
    r"mat1 and mat2 shapes cannot be multiplied \((?P<rows>\d+)x(?P<have>\d+) and (?P<want>\d+)x(?P<out>\d+)\)",
    r"must have same reduction dim, but got \[(?P<rows>\d+), (?P<have>\d+)\] X \[(?P<want>\d+), (?P<out>\d+)\]",
    r"size mismatch, m1: \[(?P<rows>\d+) x (?P<have>\d+)\], m2: \[(?P<want>\d+) x (?P<out>\d+)\]",
)
OLD = ("RuntimeError: size mismatch, m1: [416 x 26], m2: [5408 x 10] at ../aten/src/TH/generic/THTensorMath.cpp:752",)
WHY = (
    "A feature map has four dimensions (N, C, H, W), and a `Linear` takes the last one for the features: it then sees N*C*H"
    " rows of W. The layer was made for C*H*W, all of one image in a row; the step that makes that row is missing."
)
CHECK = "`x.dim() == 4` in front of the Linear; its `in_features` is C*H*W."


def explain(event: Event) -> Iterator[Cause]:
    """Certain where the input is seen to have four dimensions; else by the arithmetic of the four numbers."""
    rows, have, want, out = (int(event.facts[name]) for name in ("rows", "have", "want", "out"))
    module = running(event)
    given = first_input(module)
    if given is not None:
        if len(given.shape) < 3 or product(given.shape[1:]) != want:
            return
        what = (
            f"{called(module, 'a Linear')} was given a feature map {shape_text(given.shape)}, not a row for each image"
        )
        why = f"{' * '.join(map(str, given.shape[1:]))} = {want}, what the layer takes: only the flatten is missing"
    elif module is None and is_unflattened(rows, have, want):
        what = f"a feature map of {want // have // have} x {have} x {have} reached a Linear for {want} features unflattened"
        why = f"{want} = {want // have // have} * {have} * {have}, and the rows ({rows}) are images * channels * height"
    else:
        return
    yield Cause(
        CODE,
        NAME,
        what=what,
        why=why,
        fix=(
            f"nn.Flatten()   # in front of nn.Linear({want}, {out}), inside the Sequential",
            "x = torch.flatten(x, 1)   # or in forward: keeps the batch, joins the rest",
        ),
        likelihood="certain" if given is not None else "likely",
    )


EXAMPLE = """
import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Linear(8 * 26 * 26, 10))
net(torch.ones(2, 1, 28, 28))
"""
MENDED = """
import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
net(torch.ones(2, 1, 28, 28))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
