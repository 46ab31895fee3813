"""The parts of a split, an unflatten or a narrow do not add up to the dimension."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import numbers
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-32", "shape-split", "0.2"
TITLE = "split_with_sizes expects split_sizes to sum exactly to 10 (input tensor's size at dimension 0), but got split_sizes=[3, 4]"
RAISES = ("RuntimeError",)
NEEDLES = ("split_with_sizes expects", "don't multiply up to the size of dim", "exceeds dimension size (")
PATTERNS = (
    r"split_with_sizes expects split_sizes to sum exactly to (?P<size>\d+) \(input tensor's size at dimension (?P<dim>-?\d+)\), but got split_sizes=\[(?P<parts>[\d, ]*)\]",
    r"unflatten: Provided sizes \[(?P<factors>[\d, -]*)\] don't multiply up to the size of dim (?P<dim>-?\d+) \((?P<size>\d+)\)",
    r"start \((?P<start>-?\d+)\) \+ length \((?P<length>\d+)\) exceeds dimension size \((?P<size>\d+)\)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`split` with a list cuts a dimension into parts of these sizes, and nothing may be left over; `split` with one number makes parts of that"
    " size, the last one smaller. `unflatten` multiplies, `narrow` takes `length` elements from `start` on."
)
CHECK = "`x.shape` and the sum (or product) of the sizes."


def explain(event: Event) -> Iterator[Cause]:
    """The sizes, their sum or product, and what is missing."""
    fix: tuple[str, ...]
    facts = event.facts
    size = int(facts["size"])
    if facts.get("parts") is not None and "parts" in facts and facts["parts"]:
        parts = numbers(facts["parts"])
        rest = size - sum(parts)
        what = f"parts of {list(parts)} make {sum(parts)}, and dimension {facts['dim']} has {size}"
        why = "a split with a list of sizes leaves nothing over"
        fix = (
            f"x.split({[*parts, rest] if rest > 0 else list(parts[:-1])}, dim={facts['dim']})   # {'with the rest as a part of its own' if rest > 0 else 'fewer parts'}",
            f"x.split({parts[0]}, dim={facts['dim']})   # parts of {parts[0]}, the last one smaller",
            f"torch.tensor_split(x, {len(parts)}, dim={facts['dim']})   # {len(parts)} parts about equal",
        )
    elif facts.get("factors"):
        factors = numbers(facts["factors"])
        total = 1
        for factor in factors:
            total *= factor
        what = f"sizes of {list(factors)} make {total}, and dimension {facts['dim']} has {size}"
        why = "the sizes of an unflatten multiply to the size of the dimension"
        fix = (f"x.unflatten({facts['dim']}, ({', '.join(map(str, factors[:-1]))}, -1))   # -1: whatever is left",)
    else:
        start, length = int(facts["start"]), int(facts["length"])
        what = f"{length} elements from {start} on were asked of a dimension of {size}"
        why = "narrow takes start and length, not start and end"
        fix = (
            f"x.narrow(dim, {start}, {max(size - start, 0)})   # as many as there are",
            f"x[{start}:{start + length}]   # a slice stops at the end by itself",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch

query, key, value = torch.ones(2, 100).split([32, 32, 32], dim=1)
"""
MENDED = """
import torch

query, key, value = torch.ones(2, 96).split([32, 32, 32], dim=1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
