"""Gradients that fade away before they reach the first layers."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found
from rekindle.pitfalls.exploding_gradients import matrix_sizes

CODE, NAME, SINCE = "RK-PIT-17", "vanishing-gradients", "0.2"
WHY = "each saturated or badly scaled layer makes them smaller; the first layers stay as they began"
DO = "ReLU or GELU in place of sigmoid and tanh, a norm between the layers, or residual connections"

_SMALLEST_RATIO = 1e-7


def check(seen: Seen) -> Iterator[Finding]:
    """Compare the gradients of the first weight matrices with those of the last."""
    sizes = matrix_sizes(seen)
    if len(sizes) < 3:
        return
    (first, small), (last, large) = sizes[0], sizes[-1]
    if small / large < _SMALLEST_RATIO:
        yield found(
            (CODE, NAME),
            f"gradients fade from {large:.1e} at {last} to {small:.1e} at {first}",
            why=WHY,
            do=DO,
            where=first,
        )
