"""A Python branch on a tensor's value, where the graph has to be known beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-COMPILE-02", "compile-data-dependent", "0.2"
TITLE = "torch._dynamo.exc.Unsupported: Data-dependent branching"
RAISES = ("Unsupported", "UserError", "GuardOnDataDependentSymNode", "TracerWarning")
NEEDLES = (
    "Data-dependent branching",
    "Dynamic control flow is not supported",
    "generic_jump TensorVariable",
    "Could not guard on data-dependent expression",
    "Converting a tensor to a Python boolean might cause the trace to be incorrect",
    "generic_jump",
)
PATTERNS = (
    r"(?P<branch>Data-dependent branching)",
    r"Dynamic control flow is not supported at the moment",
    r"generic_jump TensorVariable\(\)",
    r"Could not guard on data-dependent expression (?P<expression>[^\n(]{1,120}?) ?\(unhinted",
    r"Could not guard on data-dependent expression (?P<expression>[^\n]{1,120})",
    r"(?P<traced>Converting a tensor to a Python boolean) might cause the trace to be incorrect",
)
OLD = (
    (
        "torch._dynamo.exc.UserError: Dynamic control flow is not supported at the moment. Please use"
        " functorch.experimental.control_flow.cond to explicitly capture the control flow"
    ),
    "torch._dynamo.exc.Unsupported: generic_jump TensorVariable()",
    (
        "TracerWarning: Converting a tensor to a Python boolean might cause the trace to be incorrect. We can't record the data flow"
        " of Python values, so this value will be treated as a constant in the future."
    ),
)
WHY = (
    "`if x.sum() > 0` needs the number, and a graph is made before there are numbers. `torch.compile` alone splits the graph there"
    " and goes on; with `fullgraph=True`, and in `torch.export`, it may not. `torch.jit.trace` goes on with a warning and keeps the"
    " path of the example for all inputs, which is worse."
)
CHECK = "The line under `from user code` (or the warning's line): `if`, `while`, `assert`, `and`, `bool(...)`, `.item()` on a tensor."
_PLACE = re.compile(r'File "([^"\n]+)", line (\d+)')
_CODE = re.compile(
    r"from user code[\s\S]{0,2000}?\n\s+((?:if|while|assert|return|elif)\b[^\n]{1,200})|The following call raised this error:\s*\n\s*([^\n]{1,200})"
)


def explain(event: Event) -> Iterator[Cause]:
    """The branch as it is written, and what takes its place."""
    found = _CODE.search(event.message)
    places = _PLACE.findall(event.message.partition("from user code")[2]) if not event.facts.get("traced") else []
    code = next((text.strip() for text in found.groups() if text), "") if found else ""
    if not code and not event.facts.get("traced"):
        code = code_of(event) if code_of(event).startswith(("if ", "while ", "assert ")) else ""
    expression = event.facts.get("expression", "")
    said = f": {code[:100]}" if code else f": {expression}" if expression else ""
    loop = code.startswith("while")
    traced = bool(event.facts.get("traced"))
    exported = kind_is_export(event)
    fix = [
        "torch.while_loop(cond, body, (x,))   # or a fixed number of rounds with torch.where"
        if loop
        else "torch.where(condition, a, b)   # both sides computed, one taken",
        *(() if loop else ("torch.cond(condition, true_fn, false_fn, (x,))   # only one side is computed",)),
    ]
    if traced:
        fix.append("torch.export.export(model, (x,))   # refuses in place of guessing")
    elif not exported:
        fix.append("torch.compile(model)   # without fullgraph=True: the graph is split there, and Python decides")
    fix.append("move the decision in front of the model   # if it does not depend on the data")
    yield Cause(
        CODE,
        NAME,
        what=f"{'the trace keeps one side of a branch' if traced else 'a Python branch'} on a tensor's value{said}",
        why="the trace takes the path of the example for every input from now on"
        if traced
        else "the graph is made before there are values; a branch in Python needs one",
        fix=tuple(fix),
        where=f"{places[-1][0]}:{places[-1][1]}  {code}".rstrip() if places else "",
        likelihood="certain",
    )


def kind_is_export(event: Event) -> bool:
    """Whether `torch.export` said it, which has no partial graphs."""
    return "torch.export" in event.message or is_in(event, "torch/export/__init__.py")


EXAMPLE = """
import torch

@torch.compile(fullgraph=True, backend="eager")
def shift(x):
    if x.sum() > 0:
        return x + 1
    return x - 1

shift(torch.ones(3))
"""
MENDED = """
import torch

@torch.compile(fullgraph=True, backend="eager")
def shift(x):
    return torch.where(x.sum() > 0, x + 1, x - 1)

shift(torch.ones(3))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
