"""Which module ran and which tensors met, from the frames that are alive and the user's own line."""

from __future__ import annotations

import re

from rekindle.explain.event import Event, ModuleFact, TensorFact

__all__ = ["called", "code_of", "first_input", "is_in", "running", "tensors_in_line"]

_WORD = re.compile(r"[A-Za-z_]\w*")


def running(event: Event, *kinds: str) -> ModuleFact | None:
    """Return the module whose `forward` failed, if its class is one of these (any without one), else None."""
    module = event.live.module if event.live else None
    return module if module is not None and (not kinds or module.kind in kinds) else None


def called(module: ModuleFact | None, otherwise: str) -> str:
    """Return a module for a sentence: ``layer3.0.conv2 (Conv2d)``, its class alone, or `otherwise`."""
    if module is None:
        return otherwise
    return f"{module.name} ({module.kind})" if module.name else f"the {module.kind}"


def first_input(module: ModuleFact | None) -> TensorFact | None:
    """Return the first tensor that the module was called with, or None."""
    return module.inputs[0] if module is not None and module.inputs else None


def code_of(event: Event) -> str:
    """Return the user's own line of code, or an empty text."""
    return event.user_frame.code if event.user_frame else ""


def is_in(event: Event, *places: str) -> bool:
    """Whether one of the calls was in a file or function of such a name: ``torch/nn/modules/rnn.py``, ``collate``."""
    files = tuple(place for place in places if "/" in place)
    return any(
        frame.function in places or any(file in frame.path.replace("\\", "/") for file in files)
        for frame in event.frames
    )


def tensors_in_line(event: Event) -> list[TensorFact]:
    """Return the tensors that the user's own line names, in the order of their names there; empty from text."""
    frame = event.live.user_frame if event.live else None
    if frame is None:
        return []
    words = list(dict.fromkeys(_WORD.findall(frame.frame.code)))
    return [fact for word in words if (fact := frame.tensor(word)) is not None]
