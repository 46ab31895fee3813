"""A checkpointed block computes something else the second time."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-29", "grad-checkpoint-differs", "0.2"
TITLE = "torch.utils.checkpoint: A different number of tensors was saved during the original forward and recomputation."
RAISES = ("CheckpointError", "RuntimeError")
NEEDLES = ("torch.utils.checkpoint: ", "Unexpected keyword arguments: use_reentrant")
PATTERNS = (
    r"torch\.utils\.checkpoint: A different number of tensors was saved during the original forward and recomputation\.\n?Number of tensors saved during forward: (?P<first>\d+)\.?\n?Number of tensors saved during recomputation: (?P<again>\d+)",
    r"torch\.utils\.checkpoint: Recomputed values for the following tensors have (?P<meta>different metadata)",
    r"torch\.utils\.checkpoint: trying to save more tensors during (?P<more>recomputation)",
    r"torch\.utils\.checkpoint: Unpack is being triggered for a tensor that was (?P<twice>already unpacked once)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "Activation checkpointing runs the block again in the backward pass, and both passes have to do the same. They do not where the block"
    " depends on something that changed in between: a counter, a cache, randomness without a fixed state, a flag, a mixture of experts"
    " that routes anew, autocast that was on the first time alone, or a model that was switched to `eval`."
)
CHECK = "`checkpoint(..., debug=True)` lists the operations of both passes side by side."


def explain(event: Event) -> Iterator[Cause]:
    """What differed."""
    facts = event.facts
    if facts.get("first"):
        what = f"a checkpointed block kept {facts['first']} tensors in the forward pass and {facts['again']} when it ran again"
    elif facts.get("twice"):
        what = "backward ran twice through a checkpointed block"
    elif facts.get("meta"):
        what = "a checkpointed block made tensors of another shape or dtype when it ran again"
    else:
        what = "a checkpointed block kept more tensors when it ran again"
    fix = (
        ("loss.backward()   # once; add losses of one forward pass first",)
        if facts.get("twice")
        else (
            "checkpoint(block, x, use_reentrant=False, debug=True)   # lists the operations of both passes",
            "no counter, cache or random choice inside the block   # decide in front of it and pass the decision in",
        )
    )
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="the block runs a second time in the backward pass, and something it depends on had changed",
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.utils.checkpoint import checkpoint

calls = []

def block(x):
    calls.append(1)
    return (x * x).sin() if len(calls) == 1 else x.sum()

checkpoint(block, torch.ones(3, requires_grad=True), use_reentrant=False).sum().backward()
"""
MENDED = """
import torch
from torch.utils.checkpoint import checkpoint

def block(x):
    return (x * x).sin()

checkpoint(block, torch.ones(3, requires_grad=True), use_reentrant=False).sum().backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
