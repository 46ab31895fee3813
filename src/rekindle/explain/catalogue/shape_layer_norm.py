"""The last dimensions of the input are not those that a LayerNorm was made for."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, running
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-24", "shape-layer-norm", "0.2"
TITLE = "Given normalized_shape=[512], expected input with shape [*, 512], but got input of size[2, 7, 256]"
RAISES = ("RuntimeError",)
NEEDLES = ("Given normalized_shape=",)
PATTERNS = (
    r"Given normalized_shape=\[(?P<want>[\d, ]+)\], expected input with shape \[\*,? ?[\d, ]+\], but got input of size ?\[(?P<have>[\d, ]*)\]",
)
OLD: tuple[str, ...] = ()
WHY = "A `LayerNorm` (and `RMSNorm`) has one weight for each number of the dimensions it normalises over, the last ones of its input. `LayerNorm(512)` takes any input that ends in 512."
CHECK = "The shape in front of the norm. Images of `[N, C, H, W]` end in their width: normalise over the channels with `GroupNorm(1, C)` or `BatchNorm2d(C)`, or permute."


def explain(event: Event) -> Iterator[Cause]:
    """Both shapes; an image whose channels stand second is told apart."""
    want, have = numbers(event.facts["want"]), numbers(event.facts["have"])
    module = running(event, "LayerNorm", "RMSNorm")
    kind = module.kind if module else "LayerNorm"
    ends = have[-len(want) :]
    fix = [f"nn.{kind}({ends[0] if len(ends) == 1 else list(ends)})   # if what comes in is right"]
    if len(have) == 4 and len(want) == 1 and have[1] == want[0]:
        fix = [
            f"nn.GroupNorm(1, {want[0]})   # images [N, C, H, W]: normalises each image over its channels",
            "norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)   # or the channels to the end and back",
        ]
    elif len(want) == 1 and have:
        fix.append(f"nn.Linear({have[-1]}, {want[0]})   # in front of it, if the width was to be {want[0]}")
    yield Cause(
        CODE,
        NAME,
        what=f"{called(module, 'a layer norm')} was made for an input that ends in {shape_text(want)} and got {shape_text(have)}",
        why="it normalises over the last dimensions, and has one weight for each number there",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(512, 256), nn.LayerNorm(512))
model(torch.ones(2, 7, 512))
"""
MENDED = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(512, 256), nn.LayerNorm(256))
model(torch.ones(2, 7, 512))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
