"""Parameters that are to be trained and get no gradient."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found, listed

CODE, NAME, SINCE = "RK-PIT-14", "no-gradient-reaches-layer", "0.2"
WHY = "the layer is not used in forward, its output is detached or made in no_grad, or what comes after it is dead"
DO = "use {layer} in forward, without .detach(), .item(), .data or no_grad behind it; or {layer}.requires_grad_(False)"


def check(seen: Seen) -> Iterator[Finding]:
    """Look for parameters whose gradient was missing or 0 each time."""
    if seen.never:
        first = seen.never[0]
        yield found(
            (CODE, NAME),
            f"no gradient reaches {len(seen.never)} trained {'parameters' if len(seen.never) > 1 else 'parameter'}: "
            f"{listed(seen.never)}",
            why=WHY,
            do=DO.format(layer=at(seen.model, first.rpartition(".")[0] or first)),
            where=first,
        )
