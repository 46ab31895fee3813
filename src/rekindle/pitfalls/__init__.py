"""Mistakes that raise no error: one file per mistake.

A pitfall is a module with

    CODE, NAME, SINCE   stable code and name, and the version that brought it
    WHY, DO             the words of its findings, as templates
    check(seen)         yields findings; `seen` is what was seen of a training, as plain values (`_seen.py`)

and is found by walking this package: adding a file is enough. Its docstring's first line is its title in the manual.
`rk.check` looks at one batch (`_probe.py`), `rk.Run` at a training under way (`_watch.py`); both fill in what they can
see, and ask the same pitfalls. Modules whose name starts with an underscore are shared helpers.

Law: looking changes no bit of a training. A pitfall is silent where it was not shown what it needs, and where what it
sees may well be meant. Pitfalls look at plain values, so their words can be read where torch is not installed.

Codes of this side: RK-PIT-01 to RK-PIT-99.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen

__all__ = ["Pitfall", "find_pitfalls", "page_of", "pitfall_modules", "title_of"]


class Pitfall(Protocol):
    """What a module of this package is."""

    CODE: str
    NAME: str
    SINCE: str
    WHY: str
    DO: str

    def check(self, seen: Seen) -> Iterator[Finding]:
        """Yield what is found in what was seen."""
        ...


@cache
def pitfall_modules() -> tuple[Pitfall, ...]:
    """Return the pitfalls in the order of their codes."""
    names = {entry.split(".")[0] for entry in os.listdir(__path__[0]) if entry.endswith(".py")}
    found = [import_module(f"{__name__}.{name}") for name in sorted(names) if not name.startswith("_")]
    return tuple(sorted((cast("Pitfall", module) for module in found), key=lambda pitfall: pitfall.CODE))


def find_pitfalls(seen: Seen) -> list[Finding]:
    """Return what all pitfalls find, in the order of their codes."""
    return [finding for pitfall in pitfall_modules() for finding in pitfall.check(seen)]


def title_of(pitfall: Pitfall) -> str:
    """Return what a pitfall is, in a line: the first of its docstring, without the full stop."""
    return (inspect.getdoc(pitfall) or pitfall.NAME).splitlines()[0].rstrip(".")


def page_of(word: str) -> str:
    """Return the page of a pitfall's code or name, as Markdown; empty where there is none."""
    wanted = word.lower()
    for pitfall in pitfall_modules():
        if wanted in (pitfall.CODE.lower(), pitfall.NAME):
            lines = [
                f"# {title_of(pitfall)}",
                "",
                f"`{pitfall.CODE}` `{pitfall.NAME}`: a finding of `rk.check`, or of `rk.Run`.",
            ]
            for heading, template in (("Why", pitfall.WHY), ("What to do", pitfall.DO)):
                if not re.fullmatch(r"\{\w+\}", template):
                    lines += ["", f"## {heading}", "", re.sub(r"\{(\w+)\}", lambda place: place[1].upper(), template)]
            return "\n".join([*lines, ""])
    return ""
