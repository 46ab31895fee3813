"""A learning rate of 0, or one too small to change a number."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Group, Seen, found

CODE, NAME, SINCE = "RK-PIT-18", "learning-rate-of-zero", "0.2"
WHY = "nothing is learned by {whom}; norms and the clock move on, so it looks like training"
DO = 'look at the schedule and at optimizer.param_groups[{number}]["lr"]; to hold parameters, rk.freeze them'

_NOTHING = 1e-12


def check(seen: Seen) -> Iterator[Finding]:
    """Look for groups whose rate is 0 and was never anything else; a warm-up that begins at 0 does not stay there."""
    for group in seen.groups:
        rates = seen.rates.get((group.optimizer, group.number), (group.rate,))
        if not group.trained or any(rate > _NOTHING for rate in rates):
            continue
        if seen.rates and not seen.is_epoch_over:
            continue
        if not seen.rates and group.base is not None and group.base > _NOTHING:
            continue
        yield _finding(seen, group, max(rates))


def _finding(seen: Seen, group: Group, rate: float) -> Finding:
    alone = len([one for one in seen.groups if one.optimizer == group.optimizer]) == 1
    which = group.optimizer if alone else f"{group.optimizer}, group {group.number}"
    for_how_long = " for a whole epoch" if seen.is_epoch_over else ""
    return found(
        (CODE, NAME),
        f"the learning rate of {which} is {rate:g}{for_how_long} ({group.trained} parameters)",
        why=WHY.format(whom="the model" if alone else "them"),
        do=DO.format(number=group.number),
    )
