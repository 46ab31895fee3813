"""A learning rate that no optimizer of its kind is used with."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-19", "absurd-learning-rate", "0.2"
WHY = "{reason}"
DO = "lr={usual:g} is where to begin with {kind}"

# kind -> the largest rate that somebody uses, and a usual one
_LARGEST = {
    "SGD": (100.0, 0.1),
    "Adam": (0.5, 1e-3),
    "AdamW": (0.5, 1e-3),
    "NAdam": (0.5, 1e-3),
    "RAdam": (0.5, 1e-3),
    "Adamax": (0.5, 2e-3),
    "RMSprop": (0.5, 1e-3),
}


def check(seen: Seen) -> Iterator[Finding]:
    """Look at each group's rate; what a schedule multiplies it with is in it."""
    for group in seen.groups:
        largest, usual = _LARGEST.get(group.kind, (float("inf"), 0.0))
        if group.trained and group.rate > largest:
            moves = "moves every weight by about the rate in each update, whatever the gradient"
            reason = f"{group.kind} {moves}" if group.kind != "SGD" else "an update is the gradient times the rate"
            yield found(
                (CODE, NAME),
                f"the learning rate of {group.optimizer} ({group.kind}) is {group.rate:g}",
                why=reason,
                do=DO.format(usual=usual, kind=group.kind),
            )
