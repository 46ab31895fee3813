"""A DataLoader was indexed, which only its data set can be."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-28", "data-loader-index", "0.2"
TITLE = "TypeError: 'DataLoader' object is not subscriptable"
RAISES = ("TypeError",)
NEEDLES = ("'DataLoader' object is not subscriptable",)
PATTERNS = (r"'DataLoader' object is not subscriptable",)
OLD: tuple[str, ...] = ()
WHY = "A loader gives batches one after the other and has no batch number i: it draws them as it goes. The data set has sample i."
CHECK = "Is a sample meant, or a batch?"


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - the message says all of it
    """A sample or a batch: one line for each."""
    yield Cause(
        CODE,
        NAME,
        what="a DataLoader was asked for a batch by its number",
        why="it makes batches one after the other; only the data set has sample number i",
        fix=("batch = next(iter(loader))   # the first batch", "sample = loader.dataset[0]   # one sample"),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.utils.data import DataLoader

loader = DataLoader(torch.ones(8, 2), batch_size=4)
loader[0]
"""
MENDED = """
import torch
from torch.utils.data import DataLoader

loader = DataLoader(torch.ones(8, 2), batch_size=4)
next(iter(loader))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
