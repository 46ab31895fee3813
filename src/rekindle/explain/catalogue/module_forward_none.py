"""A forward without a return gave None."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._not_tensors import NEEDLES as _NEEDLES
from rekindle.explain.catalogue._not_tensors import PATTERNS as _PATTERNS
from rekindle.explain.catalogue._not_tensors import given_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-21", "module-forward-none", "0.2"
TITLE = "TypeError: linear(): argument 'input' (position 1) must be Tensor, not NoneType"
RAISES = ("TypeError", "AttributeError")
NEEDLES = _NEEDLES
PATTERNS = _PATTERNS
OLD = ("AttributeError: 'NoneType' object has no attribute 'view'",)
WHY = "A function that ends without `return` gives `None`. Mostly it is a `forward`, or a helper in it, whose last line computes and does not return."
CHECK = "The last line of the `forward` that ran before: does it say `return`?"
_OF_TENSORS = {
    "view",
    "dim",
    "detach",
    "unsqueeze",
    "squeeze",
    "permute",
    "flatten",
    "softmax",
    "log_softmax",
    "argmax",
    "contiguous",
    "backward",
    "requires_grad",
    "cuda",
    "logits",
}


def explain(event: Event) -> Iterator[Cause]:
    """What wanted a tensor; a call of a module in the line is named."""
    given = given_of(event)
    if given.got != "NoneType" or (given.attribute and not given.is_in_layer and given.attribute not in _OF_TENSORS):
        return
    code = code_of(event)
    if re.search(r"\.(?:weight|bias)\b", code) or event.facts.get("argument") in {"weight", "bias"}:
        return
    wanted = (
        f"{given.attribute} was asked of None"
        if given.attribute and not given.is_in_layer
        else f"{given.taker} got None, not a tensor"
    )
    module = event.live.modules[-2] if event.live and len(event.live.modules) > 1 and given.is_in_layer else None
    inside = f", in {module.name or module.kind}" if module is not None and module.kind != "Sequential" else ""
    image = "imread" in code or given.attribute == "shape"
    fix = ["return x   # the last line of forward, and of each helper in it"]
    if image:
        fix.insert(0, "assert image is not None, path   # cv2.imread gives None for a file that it cannot read")
    yield Cause(
        CODE,
        NAME,
        what=f"{wanted}{inside}",
        why="a forward or a helper in front ends without return, so that its result is None",
        fix=tuple(fix),
        likelihood="likely" if given.is_in_layer or event.facts.get("argument") else "possible",
    )


EXAMPLE = """
import torch
from torch import nn

class Block(nn.Module):
    def forward(self, x):
        x = x * 2

model = nn.Sequential(Block(), nn.Linear(2, 1))
model(torch.ones(1, 2))
"""
MENDED = """
import torch
from torch import nn

class Block(nn.Module):
    def forward(self, x):
        x = x * 2
        return x

model = nn.Sequential(Block(), nn.Linear(2, 1))
model(torch.ones(1, 2))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
