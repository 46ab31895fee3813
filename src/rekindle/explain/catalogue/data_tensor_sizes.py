"""The tensors of a TensorDataset do not have the same number of samples."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-27", "data-tensor-sizes", "0.2"
TITLE = "AssertionError: Size mismatch between tensors"
RAISES = ("AssertionError",)
NEEDLES = ("Size mismatch between tensors",)
PATTERNS = (r"Size mismatch between tensors",)
OLD: tuple[str, ...] = ()
WHY = "A `TensorDataset` takes sample i from each of its tensors, so that they all have to have as many in their first dimension. One was cut, filtered or turned, or the labels are of another split."
CHECK = "Print `.shape` of each."


def explain(event: Event) -> Iterator[Cause]:
    """The tensors by name and shape where the line is alive."""
    met = tensors_in_line(event)
    seen = f": {', '.join(f'{fact.name} {shape_text(fact.shape)}' for fact in met[:4])}" if len(met) > 1 else ""
    yield Cause(
        CODE,
        NAME,
        what=f"the tensors of the TensorDataset do not have the same number of samples{seen}",
        why="sample i is taken from each of them, so that the first dimensions have to be equal",
        fix=("print([tensor.shape for tensor in tensors])   # which is of another split, filtered or transposed",),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.utils.data import TensorDataset

images, labels = torch.ones(3, 2), torch.ones(4)
TensorDataset(images, labels)
"""
MENDED = """
import torch
from torch.utils.data import TensorDataset

images, labels = torch.ones(3, 2), torch.ones(3)
TensorDataset(images, labels)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
