"""What can be wrong with a file that its reader has no reason to complain about: one file per thing.

A check is a module with

    CODE, NAME, SINCE   stable code and name, and the version that brought it
    WHY, DO             the words of its findings, as templates; `DO` is a command wherever one helps
    check(case)         yields findings; `case` is the opened file with what several checks ask of it

and is found by walking this package: adding a file is enough. Its docstring's first line is its title in the manual.
Modules whose name starts with an underscore are shared helpers. What is wrong with a container itself (cut, damaged,
no model at all) is found by its reader in `rekindle.formats`, what loading it would run by
`rekindle.scanning`; `doctor` shows all of it.

Law: a check never raises for what a file holds and never names a command that it has not looked up; `doctor` tries each
command on the file before it is shown. A finding above NOTE says that something will go wrong for somebody who loads
the file in the ordinary way; an ordinary state dict gives none.

Codes of this side: RK-FILE-65 to RK-FILE-89.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Protocol, cast

from rekindle.checks._case import Case, counted
from rekindle.finding import Finding

__all__ = ["Case", "Check", "check_modules", "counted", "run_checks"]


class Check(Protocol):
    """What a module of this package is."""

    CODE: str
    NAME: str
    SINCE: str
    WHY: str
    DO: str

    def check(self, case: Case) -> Iterator[Finding]:
        """Yield what is found in a file."""
        ...


def check_modules() -> list[Check]:
    """Return the checks in the order of their codes."""
    names = {entry.split(".")[0] for entry in os.listdir(__path__[0]) if entry.endswith(".py")}
    found = [import_module(f"{__name__}.{name}") for name in sorted(names) if not name.startswith("_")]
    return sorted((cast("Check", module) for module in found), key=lambda check: check.CODE)


def run_checks(case: Case) -> list[Finding]:
    """Return what all checks find, in the order of their codes."""
    return [finding for check in check_modules() for finding in check.check(case)]
