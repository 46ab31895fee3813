"""A size is a float, mostly from a division."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, running
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-20", "dtype-size-not-integer", "0.2"
TITLE = "TypeError: empty(): argument 'size' failed to unpack the object at pos 2 with error \"type must be tuple of ints,but got float\""
RAISES = ("TypeError",)
NEEDLES = (
    "type must be tuple of ints,but got",
    "must be tuple of ints, but found element of type float",
    "received an invalid combination of arguments - got (",
    "must be int, not float",
)
PATTERNS = (
    r"(?P<call>\w{1,60})\(\): argument '(?P<name>\w{1,60})'[^\n]{0,80}type must be tuple of ints, ?but got (?P<got>float|str|NoneType)",
    r"(?P<call>\w{1,60})\(\): argument '(?P<name>\w{1,60})'[^\n]{0,40} must be tuple of ints, but found element of type (?P<got>float|str|NoneType)",
    r"(?P<call>empty|zeros|ones|rand|randn|full|view|reshape|expand|repeat|randint|arange|eye)\(\) received an invalid combination of arguments - got \((?:(?:int|tuple|list), ){0,6}(?P<got>float)[^)\n]{0,120}\)",
    r"(?P<call>\w{1,60})\(\): argument '(?P<name>\w{1,60})' \(position \d+\) must be int, not (?P<got>float)",
)
OLD: tuple[str, ...] = ()
WHY = "`/` gives a float even where nothing is left over: `10 / 2` is `5.0`. Sizes, indices and counts are whole numbers: `//` divides them."
CHECK = "Where the size is computed: a `/`, `sqrt`, `round`-less arithmetic, a number from a config file."


def explain(event: Event) -> Iterator[Cause]:
    """What was given, and the division of the line."""
    got = event.facts["got"]
    code = code_of(event)
    divided = "/" in code.replace("//", "") and got == "float"
    fix = {
        "float": (
            "n // 2   # in place of n / 2: stays a whole number",
            "int(n)   # of a number that comes from elsewhere",
        ),
        "str": ("int(text)   # a number from a config file or the command line",),
        "NoneType": ("print(size)   # where was it to be set?",),
    }[got]
    kind = {"float": "a float", "str": "a text", "NoneType": "None"}[got]
    module = running(event)
    taker = (
        "a layer" if event.facts["call"] == "empty" and (module or not code or "nn." in code) else event.facts["call"]
    )
    yield Cause(
        CODE,
        NAME,
        what=f"a size given to {taker} is {kind}" + (f": {code[:100]}" if divided else ""),
        why="sizes are whole numbers, and / gives a float even where nothing is left over"
        if got == "float"
        else "sizes are whole numbers",
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
from torch import nn

width = 10
nn.Linear(width / 2, 3)
"""
MENDED = """
from torch import nn

width = 10
nn.Linear(width // 2, 3)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
