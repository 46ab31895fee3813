"""A state that a training loop carries from step to step: which variable it is, from the frames or the user's line."""

from __future__ import annotations

import re

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.event import Event

__all__ = ["carried"]

_STATES = ("h", "hx", "h0", "hn", "h_n", "hidden", "hiddens", "hidden_state", "state", "states", "memory", "hc", "mems")
_IN_LINE = re.compile(rf"\b({'|'.join(_STATES)})\b")


def carried(event: Event) -> str:
    """Return the name of the state, or an empty text: a tensor with gradients of such a name, or such a name in the line."""
    frame = event.live.user_frame if event.live else None
    if frame is not None:
        names = [fact.name.partition("[")[0] for fact in frame.tensors if fact.requires_grad]
        return next((name for name in names if name in _STATES), "")
    found = _IN_LINE.search(code_of(event))
    return found[1] if found else ""
