"""A method of a module was called on its class."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-26", "module-class-not-instance", "0.2"
TITLE = "TypeError: Module.eval() missing 1 required positional argument: 'self'"
RAISES = ("TypeError",)
NEEDLES = (
    "Module.eval() missing",
    "Module.train() missing",
    "Module.parameters() missing",
    "Module.state_dict() missing",
    "Module.to() missing",
    "Module.cuda() missing",
    "Module.load_state_dict() missing",
    "Module.named_parameters() missing",
    "Module.zero_grad() missing",
)
PATTERNS = (
    r"(?P<name>Module\.(?:eval|train|parameters|state_dict|to|cuda|load_state_dict|named_parameters|zero_grad))\(\) missing 1 required positional argument: '(?P<missing>self|state_dict)'",
)
OLD: tuple[str, ...] = ()
WHY = "`Net` is the class, `Net()` a model made of it. Methods work on a model."
CHECK = "Where the name on the left of the dot is assigned: are the parentheses there?"


def explain(event: Event) -> Iterator[Cause]:
    """The class, from the line."""
    method = event.facts["name"].partition(".")[2]
    found = re.search(rf"([A-Za-z_]\w*)\.{method}\(", code_of(event))
    owner = found[1] if found and found[1] not in {"super", "Module"} else ""
    if event.facts["missing"] == "state_dict" and owner[:1].islower():
        owner, sure = "", False
    else:
        sure = True
    made = owner if owner[:1].isupper() else "Net"
    yield Cause(
        CODE,
        NAME,
        what=f"{method}() was called on {'the class ' + owner if owner else 'a class'}, not on a model",
        why="the parentheses that make a model of the class are missing",
        fix=(f"model = {made}(...)   # then model.{method}(...)",),
        likelihood="certain" if sure else "likely",
    )


EXAMPLE = """
from torch import nn

class Net(nn.Module):
    pass

Net.eval()
"""
MENDED = """
from torch import nn

class Net(nn.Module):
    pass

Net().eval()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
