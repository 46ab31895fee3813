"""Parameters that want gradients and are in no optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, Weight, at, found, listed

CODE, NAME, SINCE = "RK-PIT-08", "parameters-not-in-optimizer", "0.2"
WHY = "only what an optimizer holds is updated; these keep the values that they began with"
DO = "torch.optim.{kind}({model}.parameters(), ...), or {part}.requires_grad_(False) if they are to stay"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at which trained parameters nobody holds."""
    left = left_out(seen)
    if not left or not any(weight.held for weight in seen.weights) or replaced(seen):
        return
    kind = seen.groups[0].kind if seen.groups else "SGD"
    yield found(
        (CODE, NAME),
        f"{len(left)} of {sum(weight.trained for weight in seen.weights)} trained parameters are in no optimizer: "
        f"{listed(weight.name for weight in left)}",
        why=WHY,
        do=DO.format(kind=kind, model=seen.model, part=at(seen.model, left[0].name.rpartition(".")[0] or left[0].name)),
        where=left[0].name,
    )


def left_out(seen: Seen) -> list[Weight]:
    """Return the trained parameters that are in no optimizer."""
    return [weight for weight in seen.weights if weight.trained and weight.held is False]


def replaced(seen: Seen) -> list[Weight]:
    """Return those of them in whose place an optimizer holds something of the same shape that no model has."""
    strangers = Counter(seen.strangers)
    twins = []
    for weight in left_out(seen):
        if strangers[weight.shape]:
            strangers[weight.shape] -= 1
            twins.append(weight)
    return twins
