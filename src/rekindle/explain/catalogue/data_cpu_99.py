"""The CPU is full at the end of each epoch while the GPU waits: workers are started anew, with too many threads."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-26", "data-cpu-99", "0.2"
TITLE = "CPU at 100 % and GPU idle at the end of each epoch (DataLoader workers)"
OLD: tuple[str, ...] = ()
RAISES = ()
NEEDLES = ()
PATTERNS = ()
WHY = (
    "A loader ends its workers with the epoch and starts new ones for the next, which import and open everything again."
    " Each worker may use as many threads as the machine has cores (`OMP_NUM_THREADS`), so that workers and threads get in"
    " each other's way. More workers than cores per GPU make it slower. Pinned memory can add to it where host memory is"
    " short. Set `persistent_workers=True`, `OMP_NUM_THREADS=1`, as many workers as cores per GPU, and measure `pin_memory`"
    " both ways."
)
CHECK = "`top` at the end of an epoch; `loader.num_workers`, `loader.persistent_workers`, `torch.get_num_threads()`, `len(os.sched_getaffinity(0))`."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


_MAKE = """
import os

import torch
from torch.utils.data import DataLoader, Dataset

class Workers(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return os.getpid()
"""
EXAMPLE = f"""{_MAKE}
loader = DataLoader(Workers(), num_workers=1, multiprocessing_context="fork")
first, second = (set(torch.cat(list(loader)).tolist()) for epoch in range(2))
assert first != second  # every epoch has workers of its own
"""
MENDED = f"""{_MAKE}
loader = DataLoader(Workers(), num_workers=1, multiprocessing_context="fork", persistent_workers=True)
first, second = (set(torch.cat(list(loader)).tolist()) for epoch in range(2))
assert first == second
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
