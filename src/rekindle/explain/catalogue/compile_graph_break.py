"""Something that cannot be compiled stands in a function that has to be compiled whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-COMPILE-04", "compile-graph-break", "0.2"
TITLE = "torch._dynamo.exc.Unsupported: Failed to trace builtin operator (print, fullgraph=True)"
RAISES = ("Unsupported", "UserError")
NEEDLES = ("Unsupported: ",)
PATTERNS = (
    r"^Unsupported: (?P<what>Failed to trace builtin operator|Attempted to call function marked as skipped|Call to `torch\._dynamo\.graph_break\(\)`|Graph break (?:under|in)[^\n]{0,80}|Unsupported context manager|Unsupported method call|Unsupported function call|Tensor\.item[^\n]{0,80}|Unsupported Tensor\.\w+\(\) call[^\n]{0,60}|Dynamic (?:shape|slicing)[^\n]{0,60}|Failed to convert[^\n]{0,80}|logging\.Logger[^\n]{0,60}|Reconstruction failure|Encountered [^\n]{0,80})",
    r"^Unsupported: (?P<old>call_function [^\n]{1,120}|'skip function [^\n]{1,120}|torch\.\* op returned non-Tensor [^\n]{1,100}|builtin: print [^\n]{1,100}|Logger not supported[^\n]{0,80}|data dependent operator[^\n]{0,80})",
)
OLD = (
    "torch._dynamo.exc.Unsupported: builtin: print [<class 'torch._dynamo.variables.constant.ConstantVariable'>, <class 'torch._dynamo.variables.tensor.TensorVariable'>] False",
    "torch._dynamo.exc.Unsupported: 'skip function time in file /usr/lib/python3.11/time.py'",
)
WHY = (
    "With `fullgraph=True`, and in `torch.export`, one graph has to hold the whole function. A `print`, logging, a file, the clock, `.item()`,"
    " or a library that torch does not follow breaks it. Without `fullgraph` torch compiles the parts around it and runs the break in Python:"
    " it works, and each break costs time."
)
CHECK = "The lines under `from user code`; `torch._dynamo.explain(f)(x)` counts the breaks of a function."
_USER = re.compile(r"from user code[\s\S]{0,4000}?\n\s+(\S[^\n]{0,200})\n\s*(?:\n|$)")
_PLACE = re.compile(r'File "([^"\n]+)", line (\d+)')
_BUILTIN = re.compile(r"(?:builtin `?(\w+)`?|builtin: (\w+)|skip function (\w+)|function marked as skipped)")


def explain(event: Event) -> Iterator[Cause]:
    """The user's own line, and whether it is a print."""
    message = event.message
    if "ata-dependent branching" in message[:400]:
        return  # compile-data-dependent
    found = _USER.search(message)
    code = found[1].strip() if found else ""
    places = _PLACE.findall(message.partition("from user code")[2].partition("Set TORCHDYNAMO")[0])
    prints = "print" in message[:400] or code.startswith("print(")
    logs = "log" in message[:300].lower() and not prints
    said = f": {code[:100]}" if code else ""
    first = (
        "take the print out, or print after the call   # inside of it there are no numbers yet"
        if prints
        else "log after the call, not inside of it"
        if logs
        else "move that line out of the compiled function   # compute it before and pass it in"
    )
    yield Cause(
        CODE,
        NAME,
        what=f"{'a print' if prints else 'something that cannot be compiled'} in a function that has to be one graph{said}",
        why="fullgraph=True (and torch.export) allow no step outside of the graph; printing, files, clocks and foreign libraries are such steps",
        fix=(
            first,
            "torch.compile(model)   # without fullgraph=True: compiled in parts around that line",
            "@torch.compiler.disable   # on a function that is to stay in Python",
        ),
        where=f"{places[-1][0]}:{places[-1][1]}  {code}".rstrip() if places else "",
        likelihood="certain" if code or event.facts.get("what") else "likely",
    )


EXAMPLE = """
import torch

@torch.compile(fullgraph=True, backend="eager")
def double(x):
    y = x * 2
    print("y is", y)
    return y

double(torch.ones(3))
"""
MENDED = """
import torch

@torch.compile(fullgraph=True, backend="eager")
def double(x):
    return x * 2

print("y is", double(torch.ones(3)))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
