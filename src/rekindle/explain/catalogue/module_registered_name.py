"""A module, parameter or buffer has a name with a dot, or one that is taken."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-29", "module-registered-name", "0.2"
TITLE = 'KeyError: module name can\'t contain ".", got: layer.1'
RAISES = ("KeyError",)
NEEDLES = ("name can\\'t contain", "name can't contain", "' already exists")
PATTERNS = (
    r"(?P<kind>module|parameter|buffer) name can\\?'t contain \"\.\"(?:, got: (?P<name>[^\n'\"]{1,120}))?",
    r"attribute '(?P<taken>\w{1,80})' already exists",
)
OLD: tuple[str, ...] = ()
WHY = "In keys of a state dict the dot separates a module from what is in it, so a name cannot hold one. A name that the module already has as a plain attribute cannot become a buffer, parameter or module."
CHECK = "`register_buffer`, `add_module`, `ModuleDict({...})`, `setattr`: the names given."


def explain(event: Event) -> Iterator[Cause]:
    """The name and what it could be."""
    taken = event.facts.get("taken")
    if taken:
        if event.live is None and not is_in(event, "register_buffer", "register_parameter", "add_module"):
            return
        yield Cause(
            CODE,
            NAME,
            what=f"{taken} is to be registered, and the module has an attribute of that name",
            why="it was assigned as a plain attribute before, or is a method of nn.Module",
            fix=(
                f"del self.{taken}   # in front, if it was yours",
                f'self.register_buffer("{taken}_", tensor)   # or another name',
            ),
            likelihood="certain",
        )
        return
    name = event.facts.get("name") or "a.b"
    yield Cause(
        CODE,
        NAME,
        what=f"the name of a {event.facts['kind']} has a dot in it: {name}",
        why="the dot separates a module from what is in it",
        fix=(
            f'"{name.replace(".", "_")}"   # in place of "{name}"',
            f'model.get_submodule("{name.rpartition(".")[0]}")   # if something in an inner module is meant',
        ),
        likelihood="certain",
    )


EXAMPLE = """
from torch import nn

nn.ModuleDict({"layer.1": nn.Linear(2, 2)})
"""
MENDED = """
from torch import nn

nn.ModuleDict({"layer_1": nn.Linear(2, 2)})
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
