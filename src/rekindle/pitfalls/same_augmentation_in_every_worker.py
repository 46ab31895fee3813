"""A generator of the data set's own, copied into every worker."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found, listed

CODE, NAME, SINCE = "RK-PIT-22", "same-augmentation-in-every-worker", "0.2"
WHY = (
    "each worker process gets a copy in the same state, and again in each epoch: the same numbers are drawn everywhere"
)
DO = "draw from the global generators (torch, random, numpy.random), which each worker seeds for itself"


def check(seen: Seen) -> Iterator[Finding]:
    """Look for generators kept in the data set while workers fetch."""
    own = seen.samples
    if own.workers and own.generators:
        yield found(
            (CODE, NAME),
            f"{listed(own.generators)}: a generator kept in the data set, and "
            f"{own.workers} worker{'s' * (own.workers > 1)}",
            why=WHY,
            do=DO,
        )
