"""The arguments are used before the command line was parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-07", "ddp-args-before-parse", "0.2"
TITLE = "NameError: name 'args' is not defined (args.world_size before parser.parse_args())"
RAISES = ("NameError", "UnboundLocalError")
NEEDLES = ("name 'args' is not defined", "name 'opt' is not defined", "name 'opts' is not defined")
PATTERNS = (r"name '(?P<name>args|opts?)' is not defined",)
OLD: tuple[str, ...] = ()
WHY = "`args` exists from the line `args = parser.parse_args()` on. What is computed from it (`args.world_size = args.gpus * args.nodes`) belongs behind that line; in a function that another process runs, `args` has to be passed."
CHECK = "Where the name is first assigned in the file."


def explain(event: Event) -> Iterator[Cause]:
    """Only of an attribute of it, and live only beside a parser."""
    name = event.facts["name"]
    code = code_of(event)
    used = re.search(rf"\b{name}\.\w+", code)
    if code and not used:
        return
    frame = event.live.user_frame if event.live else None
    parser = next((local for local, kind in frame.kinds.items() if kind == "ArgumentParser"), "") if frame else ""
    if frame is not None and not parser and frame.frame.function == "<module>":
        return
    yield Cause(
        CODE,
        NAME,
        what=f"{used[0] if used else name} is used before {name} exists",
        why="it exists from parse_args() on"
        + ("" if parser else "; inside a function it has to be an argument or a global name"),
        fix=(f"{name} = {parser or 'parser'}.parse_args()   # in front of this line",)
        + (
            ()
            if parser
            else (
                f"mp.spawn(work, nprocs=n, args=({name},))   # a function that another process runs gets it as an argument",
            )
        ),
        likelihood="certain" if parser else "likely" if used else "possible",
    )


EXAMPLE = """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--gpus", type=int, default=1)
args.world_size = args.gpus * 2
"""
MENDED = """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--gpus", type=int, default=1)
args = parser.parse_args()
args.world_size = args.gpus * 2
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
