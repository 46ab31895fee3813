"""A lazy layer was counted, copied or saved before its first input."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-25", "module-lazy", "0.2"
TITLE = "Attempted to use an uninitialized parameter in <method 'numel'>. This error happens when you are using a `LazyModule`"
RAISES = ("ValueError", "RuntimeError")
NEEDLES = ("Attempted to use an uninitialized parameter", "has uninitialized parameters", "uninitialized parameter")
PATTERNS = (
    r"Attempted to use an uninitialized parameter in (?P<call>[^\n.]{1,120})",
    r"Modules with uninitialized parameters can't be used with `?(?P<ddp>DistributedDataParallel)",
)
OLD: tuple[str, ...] = ()
WHY = "A lazy layer takes its sizes from its first input. Until then its parameters have no shape, so they cannot be counted, initialised, shared between processes or saved."
CHECK = "`model(example)` once, with the shape of a real batch, directly after it was made and before the optimizer, DDP, counting or loading."


def explain(event: Event) -> Iterator[Cause]:
    """What was done to it, and the forward pass that is missing."""
    call = re.search(r"method '(\w+)'", event.facts.get("call") or "")
    done = f" ({call[1]})" if call else ""
    yield Cause(
        CODE,
        NAME,
        what=f"a lazy layer was used before its first input{done}",
        why="its parameters have no shape until a batch went through",
        fix=("model(example_batch)   # once, before counting, optimizer, DDP, compile or saving",),
        likelihood="certain",
    )


EXAMPLE = """
from torch import nn

model = nn.Sequential(nn.LazyLinear(10), nn.ReLU())
print(sum(p.numel() for p in model.parameters()))
"""
MENDED = """
import torch
from torch import nn

model = nn.Sequential(nn.LazyLinear(10), nn.ReLU())
model(torch.ones(2, 5))
print(sum(p.numel() for p in model.parameters()))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
