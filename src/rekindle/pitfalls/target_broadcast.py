"""Scores of shape [B, 1] against targets of shape [B]: every score is compared with every target."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-07", "target-broadcast", "0.2"
WHY = "shapes are stretched to {both}: each sample meets every other one's target, and the model learns the mean"
DO = "loss_fn(scores.squeeze(1), targets), or targets.unsqueeze(1)"

_DISTANCES = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "sub"}


def check(seen: Seen) -> Iterator[Finding]:
    """Look at the two shapes that a distance was made of."""
    for call in seen.calls:
        first, second = sorted((call.scores, call.target), key=len)
        if call.function not in _DISTANCES or len(first) != 1 or len(second) != 2:
            continue
        if first[0] > 1 and second == (first[0], 1):
            yield found(
                (CODE, NAME),
                f"scores of shape {list(call.scores)} meet targets of shape {list(call.target)}"
                + (f" ({call.place})" if call.place else ""),
                why=WHY.format(both=[first[0], first[0]]),
                do=DO,
            )
