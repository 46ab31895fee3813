"""Truth values were subtracted or negated."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-15", "dtype-bool-arithmetic", "0.2"
TITLE = "Subtraction, the `-` operator, with a bool tensor is not supported."
RAISES = ("RuntimeError",)
NEEDLES = ("Negation, the `-` operator, on a bool", "Subtraction, the `-` operator, with")
PATTERNS = (
    r"(?P<negated>Negation), the `-` operator, on a bool tensor is not supported",
    r"Subtraction, the `-` operator, with (?P<count>two bool tensors|a bool tensor) is not supported",
)
OLD: tuple[str, ...] = ()
WHY = "A mask holds truth values, which have no difference. `~mask` is the opposite, `a ^ b` is where two masks differ, and a mask that is to be counted with becomes a number first."
CHECK = "`x.dtype`: `torch.bool` comes from a comparison."


def explain(event: Event) -> Iterator[Cause]:
    """The mask, and the operators that truth values have."""
    met = [fact for fact in tensors_in_line(event) if fact.dtype == "bool"]
    a = met[0].name if met else "mask"
    b = met[1].name if len(met) > 1 else "other"
    one_minus = f"~{a}   # the opposite: in place of -{a} or 1 - {a}"
    numbers_line = f"1 - {a}.float()   # as numbers 0 and 1"
    two = event.facts.get("count", "").startswith("two")
    yield Cause(
        CODE,
        NAME,
        what=f"{a if met else 'a mask'} holds truth values and was "
        + ("negated" if event.facts.get("negated") else "subtracted"),
        why="truth values have no difference; ~ is the opposite",
        fix=(f"{a} ^ {b}   # where they differ", f"{a} & ~{b}   # in the first and not in the second")
        if two
        else (one_minus, numbers_line),
        likelihood="certain",
    )


EXAMPLE = """
import torch

mask = torch.tensor([0.2, 0.7]) > 0.5
1 - mask
"""
MENDED = """
import torch

mask = torch.tensor([0.2, 0.7]) > 0.5
~mask
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
