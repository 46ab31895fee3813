"""The same order of samples in every epoch, though it is shuffled."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-25", "sample-order-repeated", "0.2"
WHY = "{reason}"
DO = "{remedy}"

_REASONS = {
    "sampler": (
        "DistributedSampler shuffles by the number of its epoch, which nobody changes",
        "sampler.set_epoch(epoch)    # at the start of each epoch",
    ),
    "generator": (
        "the loader's generator is seeded again before each epoch",
        "make and seed the generator once, before the epochs; or run.batches(run.loader(dataset, ...))",
    ),
    "direct": (
        "a loader of run.loader that is walked over by itself gives the order of epoch 0 each time",
        "for batch in run.batches(loader):",
    ),
}


def check(seen: Seen) -> Iterator[Finding]:
    """Look at what two epochs began with."""
    why = seen.samples.frozen_order
    if why:
        reason, remedy = _REASONS[why]
        yield found(
            (CODE, NAME), "two epochs have the same order of samples, though it is shuffled", why=reason, do=remedy
        )
