"""Samples that are already on the GPU were to be pinned."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-32", "data-pin-cuda", "0.2"
TITLE = "RuntimeError: cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned"
RAISES = ("RuntimeError",)
NEEDLES = ("only dense CPU tensors can be pinned",)
PATTERNS = (r"cannot pin '(?P<kind>[\w.]+)' only dense CPU tensors can be pinned",)
OLD: tuple[str, ...] = ()
WHY = "`pin_memory=True` makes the copy from the CPU to the GPU faster. The data set (or its collate function) has moved the samples already, so there is nothing left to copy."
CHECK = "`dataset[0]`: its device; a `.to(device)` or `.cuda()` in `__getitem__`, or `torch.set_default_device`."


def explain(event: Event) -> Iterator[Cause]:
    """Sparse and CUDA tensors."""
    sparse = "sparse" in event.facts["kind"]
    yield Cause(
        CODE,
        NAME,
        what=f"the loader was to pin a {event.facts['kind']}",
        why="sparse tensors cannot be pinned" if sparse else "the samples are on the GPU before the loader has them",
        fix=("DataLoader(..., pin_memory=False)",)
        if sparse
        else (
            "images = images.to(device, non_blocking=True)   # in the training loop, none in __getitem__",
            "DataLoader(..., pin_memory=False)   # if the data set is to stay on the GPU",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.utils.data import DataLoader

for batch in DataLoader([torch.ones(3, device="cuda")], pin_memory=True):
    pass
"""
MENDED = """
import torch
from torch.utils.data import DataLoader

for batch in DataLoader([torch.ones(3)], pin_memory=True):
    batch = batch.to("cuda", non_blocking=True)
"""
REQUIRES = ("cuda",)
MESSAGE = "RuntimeError: cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned"
