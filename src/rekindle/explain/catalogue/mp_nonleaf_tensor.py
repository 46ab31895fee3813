"""A tensor with a graph was sent to another process."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-20", "mp-nonleaf-tensor", "0.2"
TITLE = "RuntimeError: Cowardly refusing to serialize non-leaf tensor which requires_grad"
RAISES = ("RuntimeError",)
NEEDLES = ("refusing to serialize non-leaf tensor",)
PATTERNS = (r"Cowardly refusing to serialize non-leaf tensor which requires_grad",)
OLD: tuple[str, ...] = ()
WHY = "Gradients do not go from process to process. A data set that computes with a model gives such tensors, and so does a queue that losses or activations are put into."
CHECK = "What is put into the queue, or what `__getitem__` gives: `x.requires_grad`."


def explain(event: Event) -> Iterator[Cause]:
    """detach, or no_grad in the data set."""
    yield Cause(
        CODE,
        NAME,
        what="a computed tensor that requires gradients was to be sent to another process",
        why="the graph behind it stays in this process",
        fix=("queue.put(x.detach())", "with torch.no_grad():   # around what a data set computes with a model"),
        likelihood="certain" if "refusing" in event.message else "likely",
    )


EXAMPLE = """
import torch
from torch.multiprocessing.reductions import reduce_tensor

loss = torch.ones(3, requires_grad=True) * 2
reduce_tensor(loss)  # what a queue does with it
"""
MENDED = """
import torch
from torch.multiprocessing.reductions import reduce_tensor

loss = torch.ones(3, requires_grad=True) * 2
reduce_tensor(loss.detach())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
