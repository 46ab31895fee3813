"""The default of getenv became the number base of int."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-03", "ddp-local-rank-int", "0.2"
TITLE = 'ValueError: int() base must be >= 2 and <= 36, or 0 (int(os.getenv("LOCAL_RANK"), -1))'
RAISES = ("ValueError", "TypeError")
NEEDLES = ("int() base must be >= 2 and <= 36", "int() can't convert non-string with explicit base")
PATTERNS = (r"int\(\) base must be >= 2 and <= 36", r"int\(\) can't convert non-string with explicit base")
OLD: tuple[str, ...] = ()
WHY = '`int(os.getenv("LOCAL_RANK"), -1)` closes the inner parenthesis too early: -1 is then the base of the number, not the default of `getenv`.'
CHECK = "The parentheses of the line."


def explain(event: Event) -> Iterator[Cause]:
    """Only where the line reads an environment variable."""
    found = re.search(
        r"int\((?P<read>os\.(?:getenv|environ\.get)\((?P<name>[^(),]+)\)), *(?P<default>-?\w+)\)", code_of(event)
    )
    if not found:
        return
    read = found["read"][:-1]
    yield Cause(
        CODE,
        NAME,
        what=f"{found['default']} is the base of int() here, not the default of {found['name']}",
        why="the parenthesis of getenv is closed in front of the default",
        fix=(f"int({read}, {found['default']}))",),
        likelihood="certain",
    )


EXAMPLE = """
import os

local_rank = int(os.getenv("LOCAL_RANK"), -1)
"""
MENDED = """
import os

local_rank = int(os.getenv("LOCAL_RANK", -1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
