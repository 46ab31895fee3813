"""Samples that are both trained on and validated with."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-23", "validation-samples-in-training", "0.2"
WHY = "what was learned by heart counts as known: the validation looks better than new data will"
DO = "train, validation = torch.utils.data.random_split(dataset, [0.8, 0.2], torch.Generator().manual_seed(0))"

_SHARE = 0.01


def check(seen: Seen) -> Iterator[Finding]:
    """Look at how many samples are in both; a few equal ones are in most data sets."""
    own = seen.samples
    if own.shared > 1 and own.shared > _SHARE * own.validated:
        yield found(
            (CODE, NAME),
            f"{own.shared:,} of {own.validated:,} validation samples are trained on as well",
            why=WHY,
            do=DO,
        )
