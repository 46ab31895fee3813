"""A slice was saved, and with it all of the tensor that it was cut from."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-28", "load-slice-keeps-storage", "0.2"
TITLE = "torch.save of a slice makes a file as large as the whole tensor"
RAISES = ()
NEEDLES = ()
PATTERNS = ()
OLD: tuple[str, ...] = ()
WHY = (
    "A slice is a view: it shows a part of another tensor's storage. `torch.save` writes storages, not views, so that five"
    " numbers cut from a million make a file of four megabytes. That is meant: tensors that share memory still share it"
    " after loading. For a file of the slice alone, save a clone."
)
CHECK = "`t.untyped_storage().nbytes()` against `t.numel() * t.element_size()`; `rekindle doctor FILE` counts needless bytes and `rekindle convert FILE NEW --slim` leaves them out."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


EXAMPLE = """
import os
import torch

large = torch.zeros(1_000_000)
torch.save(large[:5], "five.pt")
assert os.path.getsize("five.pt") > 4_000_000
"""
MENDED = """
import os
import torch

large = torch.zeros(1_000_000)
torch.save(large[:5].clone(), "five.pt")
assert os.path.getsize("five.pt") < 10_000
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
