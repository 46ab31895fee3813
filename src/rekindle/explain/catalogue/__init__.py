"""The errors that are explained: one file per error.

An entry is a module with

    CODE, NAME, SINCE   stable code and name, and the version that brought it
    TITLE               the message as people search for it
    RAISES              bare names of the exception types it comes as; empty for warnings, log lines, silent mistakes
    NEEDLES             literal texts; one of them is in every message of it (type's bare name, ": ", message)
    PATTERNS            regular expressions, tried in order on that text; their groups are the facts
    OLD                 wordings of earlier versions, which must be explained too
    WHY, CHECK          for the long page: the cause, and how to make sure
    explain(event)      yields causes, most likely first; nothing where it is something else
    EXAMPLE, MENDED     a script that fails that way, and the same mended
    REQUIRES, MESSAGE   what the example needs that not every machine has, and what it prints there

and is found by walking this package: adding a file is enough. What a log is searched for before any entry is imported
stands in `_index.py`, which ``python scripts/error_pages.py`` writes; an entry that is not there yet is imported
instead. Modules whose name starts with an underscore are shared helpers.

Law: an entry never names a cause that its facts do not carry, never offers a command that does not exist, and its
patterns are linear in the length of the text. The file side's law holds here: no torch, no NumPy at import.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

__all__ = ["Entry", "Heading", "entry", "entry_names", "headings"]


class Entry(Protocol):
    """What a module of this package is."""

    CODE: str
    NAME: str
    SINCE: str
    TITLE: str
    RAISES: tuple[str, ...]
    NEEDLES: tuple[str, ...]
    PATTERNS: tuple[str, ...]
    OLD: tuple[str, ...]
    WHY: str
    CHECK: str
    EXAMPLE: str
    MENDED: str
    REQUIRES: tuple[str, ...]
    MESSAGE: str

    def explain(self, event: Event) -> Iterator[Cause]:
        """Yield the causes of an event that matches, most likely first."""
        ...


@dataclass(frozen=True, slots=True)
class Heading:
    """What can be known of an entry without importing it."""

    module: str
    code: str
    name: str
    title: str
    raises: tuple[str, ...]
    needles: tuple[str, ...]


def entry_names() -> list[str]:
    """Return the names of the entries' modules, sorted."""
    names = {file.split(".")[0] for file in os.listdir(__path__[0]) if file.endswith(".py")}
    return sorted(name for name in names if not name.startswith("_"))


def entry(module: str) -> Entry:
    """Return one entry, imported."""
    return cast("Entry", import_module(f"{__name__}.{module}"))


@cache
def headings() -> tuple[Heading, ...]:
    """Return what the entries are and look for, in the order of their codes; imports only those not in the index."""
    try:
        from rekindle.explain.catalogue._index import INDEX  # noqa: PLC0415 - a generated file, absent while it is made
    except ImportError:
        INDEX = {}
    found: list[Heading] = []
    for module in entry_names():
        if module in INDEX:
            found.append(Heading(module, *INDEX[module]))
        else:
            with suppress(Exception):  # an entry that cannot be imported must not cost the others; its test tells
                found.append(heading_of(module, entry(module)))
    return tuple(sorted(found, key=lambda heading: heading.code))


def heading_of(module: str, found: Entry) -> Heading:
    """Return the heading of an imported entry."""
    return Heading(module, found.CODE, found.NAME, found.TITLE, tuple(found.RAISES), tuple(found.NEEDLES))
