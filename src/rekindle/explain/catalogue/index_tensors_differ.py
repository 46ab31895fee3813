"""Two index tensors of one indexing have shapes that do not fit together."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-31", "index-tensors-differ", "0.2"
TITLE = "IndexError: shape mismatch: indexing tensors could not be broadcast together with shapes [3], [2]"
RAISES = ("IndexError",)
NEEDLES = ("indexing tensors could not be broadcast",)
PATTERNS = (r"indexing tensors could not be broadcast together with shapes (?P<shapes>[^\n]{1,200})",)
OLD: tuple[str, ...] = ()
WHY = (
    "`x[rows, columns]` pairs the first row with the first column, the second with the second, and so on: it takes points, not a block."
    " Both index tensors have one shape, or one that broadcasts. A block of rows and columns needs one dimension each."
)
CHECK = "The shapes of the index tensors; a mask counts as its number of true values."


def explain(event: Event) -> Iterator[Cause]:
    """The shapes of the indices, and both ways that may be meant."""
    shapes = event.facts["shapes"].strip()
    yield Cause(
        CODE,
        NAME,
        what=f"the indices of one indexing have the shapes {shapes}",
        why="x[rows, columns] takes points, one row with one column each; a mask counts as its true values",
        fix=(
            "x[rows[:, None], columns]   # a block: every row with every column",
            "x[rows][:, columns]   # the same, in two steps (for reading only)",
            "print(rows.shape, columns.shape)   # if points are meant, both are of one length",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

x = torch.arange(20).reshape(4, 5)
rows, columns = torch.tensor([0, 1, 3]), torch.tensor([2, 4])
x[rows, columns]
"""
MENDED = """
import torch

x = torch.arange(20).reshape(4, 5)
rows, columns = torch.tensor([0, 1, 3]), torch.tensor([2, 4])
x[rows[:, None], columns]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
