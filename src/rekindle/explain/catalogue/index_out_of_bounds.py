"""An index is not below the size of the dimension."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, is_in, tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-18", "index-out-of-bounds", "0.2"
TITLE = "IndexError: index 12 is out of bounds for dimension 0 with size 10"
RAISES = ("IndexError", "RuntimeError")
NEEDLES = (
    "is out of bounds for dimension",
    "is out of range for dimension",
    "tried to access index",
    "index out of bounds: 0 <=",
    "-sizes[i] <= index",
)
PATTERNS = (
    r"index (?P<index>-?\d+) is out of bounds for dimension (?P<dim>\d+) with size (?P<size>\d+)",
    r"index (?P<index>-?\d+) is out of range for dimension (?P<dim>\d+) \(of size (?P<size>\d+)\)",
    r"out of range: tried to access index (?P<index>-?\d+) on a tensor of (?P<size>\d+) elements",
    r"-sizes\[i\] <= index && index < sizes\[i\] && \"index out of bounds\"",
)
OLD = ("RuntimeError: index 12 is out of range for dimension 0 (of size 10)",)
WHY = (
    "Indices of a dimension of size N go from 0 to N-1, or from -N to -1 counted from the end. Labels that start at 1, ids"
    " of another table, or an index into a filtered copy end here. On a GPU the same mistake is an assertion of a kernel,"
    " reported at a later line."
)
CHECK = "`index.min()`, `index.max()`, and the size of that dimension."


def explain(event: Event) -> Iterator[Cause]:
    """The index, the size, and the range of an index tensor of the line; LSTM's own indexing is something else."""
    if is_in(event, "torch/nn/modules/rnn.py"):
        return  # shape-lstm-hidden
    facts = event.facts
    index, size = facts.get("index", ""), facts.get("size", "")
    if not index:
        yield Cause(
            CODE,
            NAME,
            what="an index on the GPU is not below the size of its dimension",
            why="the kernel checked it and stopped; the line of the traceback is a later one",
            fix=(
                "CUDA_LAUNCH_BLOCKING=1 python ...   # names the true line",
                "x.cpu()[index.cpu()]   # on the CPU: names index and size",
            ),
        )
        return
    found = [fact for fact in tensors_in_line(event) if fact.dtype in {"int64", "int32"} and fact.high is not None]
    used = next((fact for fact in found if float(index) in {fact.high, fact.low}), None)
    seen = (
        f"; {used.name} goes from {used.low:g} to {used.high:g}"
        if used and used.low is not None and used.high is not None
        else ""
    )
    dim = f" of dimension {facts['dim']}" if facts.get("dim") else ""
    one_off = int(index) == int(size)
    gathers = "gather" in code_of(event) or "scatter" in code_of(event)
    name = used.name if used else "index"
    fix = [f"{name} - 1   # if the ids count from 1"] if one_off else []
    fix.append(f"print({name}.min(), {name}.max())   # where do these come from: labels, ids, positions")
    if gathers:
        fix.append(f"F.one_hot(target, num_classes={int(index) + 1})   # or make the dimension large enough")
    yield Cause(
        CODE,
        NAME,
        what=f"index {index} is not among the {size}{dim} (0 to {int(size) - 1}){seen}"
        if int(size)
        else f"index {index} was asked of a dimension without elements",
        why="indices count from 0: the last one is the size less one"
        if one_off
        else "the index comes from something larger than this dimension",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch

names = torch.arange(10)
names[torch.tensor([3, 10])]
"""
MENDED = """
import torch

names = torch.arange(10)
names[torch.tensor([3, 10]) - 1]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
