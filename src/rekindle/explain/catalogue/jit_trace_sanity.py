"""Two traces of a model gave two different graphs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-COMPILE-01", "jit-trace-sanity", "0.2"
TITLE = "Tracing failed sanity checks! ERROR: Graphs differed across invocations!"
RAISES = ("TracingCheckError", "TracerWarning")
NEEDLES = ("Tracing failed sanity checks", "of the traced function does not match the corresponding output")
PATTERNS = (
    r"Tracing failed sanity checks!(?=(?:[\s\S]{0,8000}?First diverging operator:(?P<diverging>[^\n]{0,200}))?)",
    r"Output nr (?P<output>\d+)\. of the traced function does not match the corresponding output of the (?P<which>repeated trace|Python function)",
)
OLD = (
    "torch.jit.TracingCheckError: Tracing failed sanity checks!\nERROR: Graphs differed across invocations!\n\tGraph diff:",
    (
        "TracerWarning: Output nr 1. of the traced function does not match the corresponding output of the Python function."
        " Detailed error:"
    ),
)
WHY = (
    "`torch.jit.trace` runs the model once and writes down the operations; then it does so again and compares. A model whose path"
    " depends on values, counters, caches or random numbers gives two graphs, and the trace would hold one of them for ever."
    " Dropout in training mode gives other numbers with the same graph. TorchScript is deprecated; `torch.export.export` and"
    " `torch.compile` are what is developed now."
)
CHECK = "The lines with `+` and `-` in the diff name the source line; `model.training`; random calls and `self.x +=` in `forward`."
_OPERATION = re.compile(r"^\s*\+\s+%\S+ : \w+ = (aten::\w+)\([^\n]*?# ([^\s#]+?\.py):(\d+):", re.MULTILINE)


def explain(event: Event) -> Iterator[Cause]:
    """The operation that only one of the graphs has, and its line."""
    added = [
        (name, path, line)
        for name, path, line in _OPERATION.findall(event.message[:20_000])
        if "site-packages" not in path
    ]
    seen = (
        f": {added[0][0].removeprefix('aten::')} in {added[0][1].rpartition('/')[2]}:{added[0][2]} is in one of them only"
        if added
        else ""
    )
    numbers_differ = bool(event.facts.get("output"))
    yield Cause(
        CODE,
        NAME,
        what=f"output {event.facts['output']} of the traced model differs from run to run"
        if numbers_differ
        else f"two traces of the model differ{seen}",
        why="random numbers, dropout in training mode, or state that forward changes"
        if numbers_differ
        else "forward takes another path from call to call: it changes state (a counter, a cache), or branches on values or random numbers",
        fix=(
            "model.eval()   # dropout off, batch norm fixed",
            "torch.export.export(model, (x,))   # in place of torch.jit.trace, which is deprecated; it says what it cannot follow",
            "no `self.n += 1` and no Python branch on values in forward; check_trace=False only hides it",
        ),
        likelihood="likely",
    )


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x) if self.calls % 2 else self.fc(x).relu()

torch.jit.trace(Net().eval(), torch.ones(1, 2))
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(x)

torch.jit.trace(Net().eval(), torch.ones(1, 2))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
