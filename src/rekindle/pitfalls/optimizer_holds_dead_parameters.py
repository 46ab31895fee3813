"""An optimizer that holds parameters which no model has any more."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding, Severity
from rekindle.pitfalls._seen import Seen, found
from rekindle.pitfalls.parameters_not_in_optimizer import replaced

CODE, NAME, SINCE = "RK-PIT-09", "optimizer-holds-dead-parameters", "0.2"
WHY = "a layer was replaced or removed after the optimizer was built, or they belong to another model"
DO = "optimizer = torch.optim.{kind}({model}.parameters(), ...)    # after the last change of the model"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at what an optimizer holds besides the model's parameters."""
    if seen.strangers and not replaced(seen):
        shapes = ", ".join(str(list(shape)) for shape in seen.strangers[:3])
        yield found(
            (CODE, NAME),
            f"the optimizer holds {len(seen.strangers)} parameters that {seen.model} does not have, of shape {shapes}"
            + (" ..." if len(seen.strangers) > 3 else ""),
            why=WHY,
            do=DO.format(kind=seen.groups[0].kind if seen.groups else "SGD", model=seen.model),
            severity=Severity.NOTE,
        )
