"""shape is no function, and size is one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-35", "tensor-shape-called", "0.2"
TITLE = "TypeError: 'torch.Size' object is not callable"
RAISES = ("TypeError",)
NEEDLES = ("'torch.Size' object is not callable", "object is not subscriptable")
PATTERNS = (
    r"'(?P<size>torch\.Size)' object is not callable",
    r"'(?P<method>builtin_function_or_method)' object is not subscriptable",
)
OLD: tuple[str, ...] = ()
WHY = "`x.shape` is a tuple, `x.size()` the same by a function: `x.shape[0]` and `x.size(0)`."
CHECK = "The brackets behind `shape` and `size`."


def explain(event: Event) -> Iterator[Cause]:
    """The second form only where the line says size[...]."""
    code = code_of(event)
    if event.facts.get("method") and not re.search(r"\.size\[", code):
        return
    found = re.search(r"([\w.]{1,60})\.(?:shape\(|size\[)\s*(-?\w+)?", code)
    name, index = (found[1], found[2] or "0") if found else ("x", "0")
    yield Cause(
        CODE,
        NAME,
        what="shape was called like a function"
        if event.facts.get("size")
        else "size was indexed, and it is a function",
        why="shape is a tuple and takes square brackets, size is a function and takes round ones",
        fix=(f"{name}.shape[{index}]", f"{name}.size({index})"),
        likelihood="certain",
    )


EXAMPLE = """
import torch

x = torch.ones(3, 4)
print(x.shape(0))
"""
MENDED = """
import torch

x = torch.ones(3, 4)
print(x.shape[0])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
