"""A Sequential or ModuleList was given a list, a class or a function."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-24", "module-not-a-module", "0.2"
TITLE = "TypeError: torch.nn.modules.activation.ReLU is not a Module subclass"
RAISES = ("TypeError",)
NEEDLES = ("is not a Module subclass",)
PATTERNS = (r"^(?:TypeError: )?(?P<given>[\w.<>]{1,120}) is not a Module subclass",)
OLD: tuple[str, ...] = ()
WHY = "`nn.Sequential(a, b)` takes modules one by one; a list of them is unpacked with `*`. `nn.ReLU` is a class, `nn.ReLU()` is a module. A function such as `torch.relu` is no module."
CHECK = "Each argument: `isinstance(x, nn.Module)`."


def explain(event: Event) -> Iterator[Cause]:
    """A list, a class without its parentheses, or a function."""
    given = event.facts["given"]
    short = given.rpartition(".")[2]
    if given in {"list", "tuple", "generator"}:
        what = f"a container of modules was given a {given}"
        why = "it takes modules one by one"
        fix: tuple[str, ...] = (
            "nn.Sequential(*layers)   # the star takes the list apart",
            "nn.ModuleList(layers)   # takes a list, and is called by a loop of yours",
        )
    elif given.startswith("torch.nn.modules."):
        what = f"a container of modules was given the class {short}"
        why = "a class is not yet a module: the parentheses are missing"
        fix = (f"nn.{short}()",)
    elif short == "NoneType":
        what = "a container of modules was given None"
        why = "something that makes a layer has no return, or a layer was left out by None"
        fix = ("nn.Identity()   # a layer that does nothing",)
    else:
        what = f"a container of modules was given {given}"
        why = (
            "functions and other objects are no modules; a class needs its parentheses, and torch.nn.Module as its base"
        )
        fix = (
            f"nn.ReLU()   # the module in place of the function {short}"
            if short in {"relu", "relu_"}
            else "class Name(nn.Module): ...   # with forward(self, x)",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
from torch import nn

nn.Sequential(nn.Linear(2, 2), nn.ReLU)
"""
MENDED = """
from torch import nn

nn.Sequential(nn.Linear(2, 2), nn.ReLU())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
