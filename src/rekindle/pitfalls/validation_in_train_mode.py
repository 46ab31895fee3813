"""A model that is validated in training mode."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found, listed

CODE, NAME, SINCE = "RK-PIT-12", "validation-in-train-mode", "0.2"
WHY = "dropout drops, and norms use the batch at hand and learn from it: the measure is wrong, and so is the model"
DO = "with run.evaluating({model}): ...    # or {model}.eval() before and {model}.train() after"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at what moved, or was in training mode, where no update was made."""
    which = seen.moved_outside or seen.dropping_outside
    if which:
        seen_as = "their statistics moved" if seen.moved_outside else "batches were walked over without gradients"
        yield found(
            (CODE, NAME),
            f"{seen.model} was in training mode outside of the training: {listed(which)} ({seen_as})",
            why=WHY,
            do=DO.format(model=seen.model),
            where=which[0],
        )
