"""A loss that is the same for every batch."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-15", "constant-loss", "0.2"
WHY = (
    "other batches give another loss, unless the output no longer depends on the input: dead units, or a broken forward"
)
DO = "print(model(inputs))    # rows that are all alike: a lower learning rate, another start, no ReLU before the loss"
LEAST = 5


def check(seen: Seen) -> Iterator[Finding]:
    """Look for a loss that was the same number, and not 0, on at least five batches."""
    for name, values in seen.values.items():
        if len(values) >= LEAST and values[0] != 0 and all(_same(value, values[0]) for value in values):
            yield found(
                (CODE, NAME),
                f"{name} was {values[0]:.6g} on each of {len(values)} different batches",
                why=WHY,
                do=DO,
            )


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-6 * abs(other)
