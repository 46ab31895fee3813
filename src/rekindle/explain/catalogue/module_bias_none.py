"""The bias of a layer without one is used."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-27", "module-bias-none", "0.2"
TITLE = "AttributeError: 'NoneType' object has no attribute 'data' (layer.bias, bias=False)"
RAISES = ("AttributeError",)
NEEDLES = ("'NoneType' object has no attribute '",)
PATTERNS = (
    r"'NoneType' object has no attribute '(?P<name>data|zero_|fill_|shape|device|dtype|requires_grad|requires_grad_|numel|detach|clone|uniform_|normal_)'",
)
OLD: tuple[str, ...] = ()
WHY = "With `bias=False` a layer has the attribute `bias`, and it is None. Code that sets the biases of all layers has to leave those out. Norms with `affine=False` have neither weight nor bias."
CHECK = "`layer.bias is None`."


def explain(event: Event) -> Iterator[Cause]:
    """Only where the line or the frames speak of a bias."""
    code = code_of(event)
    found = re.search(r"([\w.\[\]]{1,60})\.bias\b", code)
    inits = bool(re.search(r"init\.\w{1,40}\(", code)) and "bias" in code
    if not found and not inits:
        return
    layer = found[1] if found else "m"
    yield Cause(
        CODE,
        NAME,
        what=f"{layer}.bias is None",
        why="the layer was made with bias=False (or affine=False), and this line takes a bias for granted",
        fix=(f"if {layer}.bias is not None:   # in front of it",),
        likelihood="likely",
    )


EXAMPLE = """
from torch import nn

for layer in nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)):
    nn.init.zeros_(layer.bias)
"""
MENDED = """
from torch import nn

for layer in nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)):
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
