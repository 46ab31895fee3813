"""Losses that are kept together with all they were computed from."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-26", "losses-kept-with-graphs", "0.2"
WHY = "a loss holds the graph that made it: memory grows with every step, until there is none"
DO = "{line}"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at what the loop holds on to."""
    for name, count, place in seen.kept[:1]:
        line = f"{name}.append(loss.detach())" if count else f"{name} += loss.detach()    # or loss.item()"
        many = f"{count} losses" if count else "a sum of losses that grows with each step,"
        yield found(
            (CODE, NAME),
            f"`{name}` holds {many} with their graphs" + (f" ({place})" if place else ""),
            why=WHY,
            do=line,
        )
