"""A last layer with more outputs than the data has classes."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding, Severity
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-30", "classes-without-labels", "0.2"
WHY = "scores that are never right only learn to be low, and may win where the model is unsure"
DO = "rk.replace_head({model}, {classes})    # or a last layer with {classes} outputs"


def check(seen: Seen) -> Iterator[Finding]:
    """Compare the scores of cross entropy with the classes of the whole data set."""
    own = seen.samples
    known = own.classes or (None if own.highest is None else own.highest + 1)
    scores = next((call.classes for call in seen.calls if call.classes and "float" not in call.target_dtype), None)
    if known and scores and scores > known > 1:
        yield found(
            (CODE, NAME),
            f"the last layer gives {scores} scores, and the data set has {known} classes",
            why=WHY,
            do=DO.format(model=seen.model, classes=known),
            severity=Severity.NOTE,
        )
