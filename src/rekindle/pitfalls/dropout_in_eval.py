"""A dropout that goes on dropping in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found

CODE, NAME, SINCE = "RK-PIT-28", "dropout-in-eval", "0.2"
WHY = "F.dropout drops wherever it is called, unless it is told the mode; model.eval() does not reach it"
DO = "F.dropout(x, p, training=self.training), or a layer: self.dropout = nn.Dropout(p)"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at what was called while the model was in eval mode."""
    for layer, place in seen.drew_in_eval[:1]:
        yield found(
            (CODE, NAME),
            f"{at(seen.model, layer, seen.model)} drops values in eval mode" + (f" ({place})" if place else ""),
            why=WHY,
            do=DO,
            where=layer,
        )
