"""A model that was changed or moved after its optimizer was built."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found, listed
from rekindle.pitfalls.parameters_not_in_optimizer import replaced

CODE, NAME, SINCE = "RK-PIT-10", "model-changed-after-optimizer", "0.2"
WHY = (
    "a replaced head, load_state_dict(assign=True), or a move that makes new parameters: the optimizer updates "
    "the old ones, which no model uses"
)
DO = "optimizer = torch.optim.{kind}({model}.parameters(), ...)    # after the last change of the model"
_MOVED = "model.to(device) moves parameters, and not what the optimizer keeps beside them"


def check(seen: Seen) -> Iterator[Finding]:
    """Look for parameters in whose place the optimizer holds others, and for state on another device."""
    twins = replaced(seen)
    kind = seen.groups[0].kind if seen.groups else "SGD"
    if twins:
        yield found(
            (CODE, NAME),
            f"the optimizer holds other tensors than {seen.model} has now: {listed(twin.name for twin in twins)}",
            why=WHY,
            do=DO.format(kind=kind, model=seen.model),
            where=twins[0].name,
        )
    if seen.elsewhere:
        yield found(
            (CODE, NAME),
            f"the optimizer's state is on another device than the parameters: {listed(seen.elsewhere)}",
            why=_MOVED,
            do=f"{seen.model}.to(device) first, then build the optimizer and load its state",
            where=seen.elsewhere[0],
        )
