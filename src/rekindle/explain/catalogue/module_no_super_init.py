"""The module's own __init__ does not call super().__init__() before its first layer."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-01", "module-no-super-init", "0.2"
TITLE = "AttributeError: cannot assign module before Module.__init__() call"
RAISES = ("AttributeError", "ModuleAttributeError")
NEEDLES = ("before Module.__init__() call", "object has no attribute '_")
PATTERNS = (
    r"cannot assign (?P<part>module|parameters?|buffer) before Module\.__init__\(\) call",
    r"'(?P<kind>\w+)' object has no attribute '(?P<inner>_modules|_parameters|_buffers|_forward_hooks|_forward_pre_hooks|_backward_hooks|_backward_pre_hooks|_non_persistent_buffers_set)'",
)
OLD: tuple[str, ...] = ()
WHY = "`nn.Module.__init__` makes the tables for layers, parameters and buffers. A class with an `__init__` of its own has to call it before it sets the first of them."
CHECK = "The first line of `__init__` of the class in the traceback."


def explain(event: Event) -> Iterator[Cause]:
    """The class live; what was to be assigned, or that the module was called."""
    if event.facts.get("inner") and event.frames and not any("torch" in frame.path for frame in event.frames):
        return
    part = event.facts.get("part", "").removesuffix("s")
    kind = event.facts.get("kind", "") or _kind(event)
    yield Cause(
        CODE,
        NAME,
        what=f"{f'__init__ of {kind}' if kind else 'the __init__ of the module'} does not call super().__init__() "
        + (f"before it assigns a {part}" if part else "at all"),
        why="nn.Module.__init__ makes the tables that layers, parameters and buffers are kept in",
        fix=("super().__init__()   # the first line of __init__",),
        likelihood="certain",
    )


def _kind(event: Event) -> str:
    for frame in reversed(event.live.frames if event.live else ()):
        if frame.frame.function == "__init__" and frame.frame.is_users and "self" in frame.kinds:
            return frame.kinds["self"]
    return ""


EXAMPLE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        self.fc = nn.Linear(2, 2)

Net()
"""
MENDED = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

Net()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
