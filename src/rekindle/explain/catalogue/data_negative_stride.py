"""A NumPy array that runs backwards cannot become a tensor without a copy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-24", "data-negative-stride", "0.2"
TITLE = "ValueError: At least one stride in the given numpy array is negative, and tensors with negative strides are not currently supported"
RAISES = ("ValueError",)
NEEDLES = ("stride in the given numpy array is negative", "strides of a given numpy array are negative")
PATTERNS = (r"stride in the given numpy array is negative", r"strides of a given numpy array are negative")
OLD = (
    "ValueError: some of the strides of a given numpy array are negative. This is currently not supported, but will be added in future releases.",
)
WHY = (
    "`a[::-1]`, `np.flip`, `np.fliplr`, `np.rot90` and the swap of colours `img[..., ::-1]` copy nothing: the new array reads"
    " the same memory backwards, with a negative stride. A tensor cannot, so the array has to be copied into order first."
)
CHECK = "`a.strides`: one of the numbers is below 0."


def explain(event: Event) -> Iterator[Cause]:
    """The array by its name where the line or the frames tell."""
    code = code_of(event)
    arrays = [fact.name for fact in tensors_in_line(event) if fact.device == "numpy"]
    written = re.search(r"(?:from_numpy|as_tensor|tensor|Tensor)\((\w+)\s*[,)]", code)
    name = arrays[0] if arrays else written[1] if written else "a"
    swap = re.search(r"\[(?:\.\.\., *|:, *:, *)::-1\]", code) is not None
    how = "a flip or a turn" if not swap else "the swap of colours [..., ::-1]"
    yield Cause(
        CODE,
        NAME,
        what=f"the array {name} runs backwards through its memory"
        if name != "a"
        else "the array runs backwards through its memory",
        why=f"{how if swap else 'a flip (np.flip, [::-1], np.rot90, BGR to RGB)'} makes a view with a negative stride, which a tensor cannot have",
        fix=(
            f"torch.from_numpy(np.ascontiguousarray({name}))   # one copy, in order",
            f"torch.flip(torch.from_numpy(array), [0])   # or flip the tensor instead; of which {name} is a view"
            if arrays
            else "torch.flip(tensor, [0])   # or flip the tensor instead of the array",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import numpy as np
import torch

image = np.arange(12, dtype=np.float32).reshape(3, 4)
mirrored = np.fliplr(image)
torch.from_numpy(mirrored)
"""
MENDED = """
import numpy as np
import torch

image = np.arange(12, dtype=np.float32).reshape(3, 4)
mirrored = np.fliplr(image)
torch.from_numpy(np.ascontiguousarray(mirrored))
"""
REQUIRES = ("numpy",)
MESSAGE = "ValueError: At least one stride in the given numpy array is negative, and tensors with negative strides are not currently supported."
