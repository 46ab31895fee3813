"""Gradients that are never cleared: zero_grad forgotten."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-24", "gradients-not-cleared", "0.2"
WHY = "backward() adds to what is there: each update is made with the sum of all gradients so far"
DO = "{optimizer}.zero_grad()    # once in each update, after {optimizer}.step()"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at whether gradients of the update before were still there at each backward pass of the next."""
    if seen.carried:
        yield found(
            (CODE, NAME),
            f"gradients of the update before were still there when {seen.carried} made the next",
            why=WHY,
            do=DO.format(optimizer=seen.carried),
        )
