"""A model that is trained in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found, listed

CODE, NAME, SINCE = "RK-PIT-11", "training-in-eval-mode", "0.2"
WHY = (
    "eval mode stays until model.train(): dropout drops nothing, and norms normalise with old statistics and learn none"
)
DO = "{model}.train()    # at the start of each epoch"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at the flag of the model itself: parts of it may be in eval mode on purpose."""
    if not seen.is_training or not seen.layers or seen.layers[0].training:
        return
    which = [layer for layer in seen.layers if not layer.training and (layer.p or (layer.statistics and layer.trained))]
    if which:
        yield found(
            (CODE, NAME),
            f"updates are made while {seen.model} is in eval mode: "
            f"{listed(f'{one.name} ({one.kind})' for one in which)}",
            why=WHY,
            do=DO.format(model=seen.model),
            where=which[0].name,
        )
