"""Every epoch has the same order: DistributedSampler was not told the epoch."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-14", "data-set-epoch", "0.2"
TITLE = "every epoch has the same order with DistributedSampler (sampler.set_epoch forgotten)"
OLD: tuple[str, ...] = ()
RAISES = ()
NEEDLES = ()
PATTERNS = ()
WHY = (
    "`DistributedSampler` seeds its shuffle with `seed + epoch`, so that all ranks draw the same order and each takes its"
    " part of it. Without `set_epoch` the epoch stays 0, and every epoch is the same. After a resume it has to be the epoch"
    " that really runs, else the first one is repeated."
)
CHECK = "`sampler.epoch` stays 0."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


_MAKE = """
from torch.utils.data import DataLoader, DistributedSampler

numbers = list(range(32))
sampler = DistributedSampler(numbers, num_replicas=2, rank=0, shuffle=True)
loader = DataLoader(numbers, batch_size=4, sampler=sampler)
orders = []
for epoch in range(2):
"""
EXAMPLE = f"""{_MAKE}
    orders.append([batch.tolist() for batch in loader])
assert orders[0] == orders[1]
"""
MENDED = f"""{_MAKE}
    sampler.set_epoch(epoch)
    orders.append([batch.tolist() for batch in loader])
assert orders[0] != orders[1]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
