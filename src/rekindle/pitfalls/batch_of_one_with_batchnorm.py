"""Batch norm with a single sample in the batch."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found, listed

CODE, NAME, SINCE = "RK-PIT-29", "batch-of-one-with-batchnorm", "0.2"
WHY = "it normalises with the batch's mean and variance; those of one sample say nothing about the others"
DO = "a larger batch_size (and drop_last=True), or nn.GroupNorm, which needs no batch"


def check(seen: Seen) -> Iterator[Finding]:
    """Look for batch norms in training mode where batches have one sample."""
    norms = [one for one in seen.layers if one.kind.startswith("BatchNorm") and one.training and one.trained]
    if seen.batch_size == 1 and norms:
        yield found(
            (CODE, NAME),
            f"batches of 1 sample with {len(norms)} batch norm{'s' * (len(norms) > 1)} in training mode: "
            f"{listed(one.name for one in norms)}",
            why=WHY,
            do=DO,
            where=norms[0].name,
        )
