"""What a loss was given: its two tensors from the frames, and their names from the user's own line."""

from __future__ import annotations

import re

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.event import Event, TensorFact

__all__ = ["argument_names", "loss_tensors"]

_TWO = re.compile(r"\(\s*(?P<input>[A-Za-z_]\w*)\s*,\s*(?P<target>[A-Za-z_]\w*)\s*[,)]")


def loss_tensors(event: Event) -> tuple[TensorFact | None, TensorFact | None]:
    """Return the input and the target of the loss that failed; None for what is not known."""
    for frame in reversed(event.live.frames if event.live else ()):
        given, target = frame.tensor("input"), frame.tensor("target")
        if given is not None and target is not None:
            return given, target
    names = _TWO.search(code_of(event))
    own = event.live.user_frame if event.live else None
    if names and own:
        return own.tensor(names["input"]), own.tensor(names["target"])
    return None, None


def argument_names(event: Event) -> tuple[str, str]:
    """Return how the user's own line calls input and target: ``outputs``, ``labels``; else ``output``, ``target``."""
    found = _TWO.search(code_of(event))
    return (found["input"], found["target"]) if found else ("output", "target")
