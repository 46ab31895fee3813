"""Softmax before a cross entropy that applies it itself."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding, Severity
from rekindle.pitfalls._seen import Seen, at, found

CODE, NAME, SINCE = "RK-PIT-02", "softmax-before-cross-entropy", "0.2"
WHY = (
    "cross entropy applies log_softmax itself; of probabilities, which lie between 0 and 1, it cannot come near 0, and "
    "gradients are small: training is slow or stuck"
)
DO = "loss_fn(scores, labels) with the output of {last}; softmax only to show probabilities: scores.softmax(1)"
_TWICE = "cross entropy applies log_softmax itself; a second one changes nothing and costs time"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at what the cross entropy was given."""
    for loss in seen.losses:
        if loss.kind != "cross entropy" or not loss.before or loss.before[0] not in {"Softmax", "LogSoftmax"}:
            continue
        place = seen.places.get(loss.before[0], "")
        twice = loss.before[0] == "LogSoftmax"
        yield found(
            (CODE, NAME),
            f"cross entropy is given {'log-probabilities' if twice else 'probabilities'}: "
            f"{'log_softmax' if twice else 'softmax'} was applied after {at(seen.model, loss.last)}"
            + (f" ({place})" if place else ""),
            why=_TWICE if twice else WHY,
            do=DO.format(last=at(seen.model, loss.last)),
            where=loss.last,
            severity=Severity.NOTE if twice else Severity.WARNING,
        )
