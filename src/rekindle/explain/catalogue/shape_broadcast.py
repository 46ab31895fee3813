"""Two tensors meet in an element-wise operation, and their sizes do not fit."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, is_in, tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, TensorFact

CODE, NAME, SINCE = "RK-SHAPE-08", "shape-broadcast", "0.2"
TITLE = "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1"
RAISES = ("RuntimeError",)
NEEDLES = ("The size of tensor a (", "inconsistent tensor size", "doesn't match the broadcast shape")
PATTERNS = (
    r"The size of tensor a \((?P<a>\d+)\) must match the size of tensor b \((?P<b>\d+)\) at non-singleton dimension (?P<dim>-?\d+)",
    r"output with shape \[(?P<output>[\d, ]*)\] doesn't match the broadcast shape \[(?P<wide>[\d, ]*)\]",
    r"inconsistent tensor size, expected (?:r_ \[[\d x]*\], t )?\w*\s?\[(?P<old_a>[\d x]*)\]\w*,? (?:and )?src \[(?P<old_b>[\d x]*)\]",
    r"inconsistent tensor sizes? at",
)
OLD = (
    (
        "RuntimeError: inconsistent tensor size, expected tensor [2 x 3] and src [2 x 4] to have the same number of elements,"
        " but got 6 and 8 elements respectively"
    ),
)
WHY = (
    "Two tensors in one sum, product or comparison are lined up from their last dimension on; each pair of sizes has to be"
    " equal, or one of them 1. The message names the first dimension where neither holds."
)
CHECK = (
    "Print both shapes. If it happens at the end of an epoch only, one of the sizes is that of the last, shorter batch."
)


def explain(event: Event) -> Iterator[Cause]:
    """Both tensors by name where the line is alive; an in-place operation that would have to grow."""
    facts = event.facts
    met = tensors_in_line(event)
    code = code_of(event)
    if is_in(event, "torchvision/transforms/_functional_tensor.py", "torchvision/transforms/functional.py") and is_in(
        event, "normalize"
    ):
        return  # data-normalize-channels
    if "output" in facts:
        yield Cause(
            CODE,
            NAME,
            what=f"an operation in place would have to make [{facts['output']}] into [{facts['wide']}]",
            why="the result is as large as the larger of the two, and an operation in place cannot change the size of its target",
            fix=(
                "x = x + y   # in place of x += y: makes a new tensor",
                "x.unsqueeze(...)   # or give x the shape it should have first",
            ),
            likelihood="certain",
        )
        return
    if "a" not in facts:
        old = facts.get("old_a", ""), facts.get("old_b", "")
        numbers = f"[{old[0]}] and [{old[1]}]" if old[0] else "two tensors of other sizes"
        yield Cause(
            CODE,
            NAME,
            what=f"{numbers} meet in one operation",
            why=_RULE,
            fix=("print(a.shape, b.shape)   # in front of the line",),
        )
        return
    a, b, dim = int(facts["a"]), int(facts["b"]), int(facts["dim"])
    pair = _pair(met, a, b, dim)
    names = (
        f"{pair[0].name} {shape_text(pair[0].shape)} and {pair[1].name} {shape_text(pair[1].shape)}"
        if pair
        else "two tensors"
    )
    x, y = (pair[0].name, pair[1].name) if pair else ("a", "b")
    fix = []
    if (
        pair
        and pair[0].shape[-1:] != pair[1].shape[-1:]
        and pair[0].shape[:1] == pair[1].shape
        and len(pair[0].shape) > 1
    ):
        fix.append(
            f"{y}.unsqueeze(-1)   # {shape_text(pair[1].shape)} goes with the first dimension of {x}, not the last"
        )
    if pair and len(pair[0].shape) == len(pair[1].shape) == 2 and pair[0].shape == pair[1].shape[::-1]:
        fix.append(f"{y}.transpose(0, 1)   # the two are each other's transpose")
    fix.append(f"print({x}.shape, {y}.shape)   # in front of the line; then slice, unsqueeze or transpose one of them")
    if dim == 0:
        fix.append("DataLoader(..., drop_last=True)   # if only the last, shorter batch fails")
    yield Cause(
        CODE,
        NAME,
        what=f"{names} meet in one operation: {a} and {b} in dimension {dim}",
        why=_RULE + (f" (in `{code}`)" if code and not pair else ""),
        fix=tuple(fix),
    )


_RULE = "lined up from the last dimension, sizes have to be equal or one of them 1"


def _pair(met: list[TensorFact], a: int, b: int, dim: int) -> tuple[TensorFact, TensorFact] | None:
    """Return the two tensors of the line that have these sizes at that dimension of the (larger) result, if any."""
    most = max((len(fact.shape) for fact in met), default=0)

    def size(fact: TensorFact) -> int:
        place = dim - most + len(fact.shape)
        return fact.shape[place] if 0 <= place < len(fact.shape) else 1

    first = next((fact for fact in met if size(fact) == a), None)
    second = next((fact for fact in met if size(fact) == b), None)
    return (first, second) if first is not None and second is not None else None


EXAMPLE = """
import torch

scores = torch.ones(2, 3)
weights = torch.ones(2, 4)
scores * weights
"""
MENDED = """
import torch

scores = torch.ones(2, 3)
weights = torch.ones(2, 4)
scores * weights[:, :3]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
