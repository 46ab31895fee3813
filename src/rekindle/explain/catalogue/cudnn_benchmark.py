"""cudnn.benchmark searches again for every new input size."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-14", "cudnn-benchmark", "0.2"
TITLE = "slow steps whenever the input size changes (torch.backends.cudnn.benchmark = True)"
OLD: tuple[str, ...] = ()
RAISES = ()
NEEDLES = ()
PATTERNS = ()
WHY = (
    "With `torch.backends.cudnn.benchmark = True` cuDNN tries its algorithms for every new combination of sizes and keeps the"
    " fastest. With inputs of one size that is a gain after the first step; where sizes change from batch to batch (sequences,"
    " detection, the last batch of an epoch) it searches again and again. Set it to False there, or pad to a few sizes; the"
    " last batch goes with `drop_last=True`. What is found can also differ from run to run, and with it the last bits."
)
CHECK = "How many different input shapes a run has: `len({tuple(batch.shape) for batch in loader})`."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


_MAKE = """
import time

import torch
from torch import nn

torch.backends.cudnn.benchmark = %s
layers = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(8))).cuda()

def seconds(sizes):
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for size in sizes:
        layers(torch.ones(8, 16, size, size, device="cuda"))
    torch.cuda.synchronize()
    return time.perf_counter() - begin

seconds([64] * 4)
same, changing = seconds([96] * 40), seconds(range(80, 120))
"""
EXAMPLE = _MAKE % True + "assert changing > 2 * same, (same, changing)\n"
MENDED = _MAKE % False
REQUIRES = ("cuda", "process")
MESSAGE = ""
