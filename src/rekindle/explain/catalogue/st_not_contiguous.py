"""safetensors was given a tensor whose numbers do not lie in order."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-41", "st-not-contiguous", "0.2"
TITLE = "You are trying to save a non contiguous tensor: `w` which is not allowed"
RAISES = ("ValueError",)
NEEDLES = ("You are trying to save a non contiguous tensor",)
PATTERNS = (r"You are trying to save a non contiguous tensor: `(?P<key>[^`\n]{1,300})`",)
OLD: tuple[str, ...] = ()
WHY = "A safetensors file holds the numbers of each tensor in order. A transposed, permuted or sliced tensor is a view that reads them in another order; `.contiguous()` makes a copy in its own order."
CHECK = "`{k: v.is_contiguous() for k, v in tensors.items()}`."


def explain(event: Event) -> Iterator[Cause]:
    """The key, and one line for all of them."""
    key = event.facts["key"]
    yield Cause(
        CODE,
        NAME,
        what=f"{key} is a view whose numbers do not lie in order: it was transposed, permuted or sliced",
        why="a safetensors file keeps the numbers of each tensor one behind the other",
        fix=("save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)",),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from safetensors.torch import save_file

save_file({"weight": torch.ones(3, 4).t()}, "model.safetensors")
"""
MENDED = """
import torch
from safetensors.torch import save_file

save_file({"weight": torch.ones(3, 4).t().contiguous()}, "model.safetensors")
"""
REQUIRES: tuple[str, ...] = ("safetensors",)
MESSAGE = ""
