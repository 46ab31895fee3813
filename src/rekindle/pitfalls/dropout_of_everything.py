"""A dropout that drops everything."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found

CODE, NAME, SINCE = "RK-PIT-27", "dropout-of-everything", "0.2"
WHY = "p is the share that is dropped, not the one that is kept: with p=1 only zeros pass, and no gradient"
DO = "{kind}(p=0.1)    # drops a tenth"


def check(seen: Seen) -> Iterator[Finding]:
    """Look for p of 1."""
    full = [layer for layer in seen.layers if layer.p is not None and layer.p >= 1]
    for layer in full[:1]:
        yield found(
            (CODE, NAME),
            f"{at(seen.model, layer.name, seen.model)} ({layer.kind}) drops everything: p={layer.p:g}",
            why=WHY,
            do=DO.format(kind=f"nn.{layer.kind}"),
            where=layer.name,
        )
