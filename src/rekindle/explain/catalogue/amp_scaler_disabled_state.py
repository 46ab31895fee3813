"""The saved state of a loss scaler is empty, because it was switched off when it was saved."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-AMP-07", "amp-scaler-disabled-state", "0.2"
TITLE = "RuntimeError: The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
RAISES = ("RuntimeError",)
NEEDLES = ("saved from a disabled instance of GradScaler",)
PATTERNS = (r"The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler",)
OLD: tuple[str, ...] = ()
WHY = "A `GradScaler(enabled=False)` saves an empty state. The run that saved trained in float32 or bfloat16 (or without a GPU), the one that loads uses float16."
CHECK = '`checkpoint["scaler"]` is `{}`; the flag `--amp` of both runs.'


def explain(event: Event) -> Iterator[Cause]:
    """Load it only if there is something in it."""
    if not event.message:
        return
    yield Cause(
        CODE,
        NAME,
        what="the saved state of the loss scaler is empty",
        why="mixed precision with float16 was off in the run that saved it, and is on now",
        fix=(
            'if checkpoint["scaler"]: scaler.load_state_dict(checkpoint["scaler"])   # the scale then starts at 65536 and adapts in some steps',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

saved = torch.amp.GradScaler("cpu", enabled=False).state_dict()
torch.amp.GradScaler("cpu").load_state_dict(saved)
"""
MENDED = """
import torch

saved = torch.amp.GradScaler("cpu", enabled=False).state_dict()
scaler = torch.amp.GradScaler("cpu")
if saved:
    scaler.load_state_dict(saved)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
