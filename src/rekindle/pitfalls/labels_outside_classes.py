"""Labels that are no number of a class."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding, Severity
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-05", "labels-outside-classes", "0.2"
WHY = "{classes} scores are for the labels 0 to {last}; on a GPU this ends in a device-side assert, far from the cause"
DO = "{remedy}"
_BINARY = "binary cross entropy is made for targets from 0 to 1; of others it falls without end"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at the labels of the batch, and at those of the data set."""
    for call in seen.calls:
        if call.low is None or call.high is None:
            continue
        if call.function in {"binary_cross_entropy", "binary_cross_entropy_with_logits"}:
            if call.low < 0 or call.high > 1:
                yield found(
                    (CODE, NAME),
                    f"targets of binary cross entropy reach from {call.low:g} to {call.high:g}",
                    why=_BINARY,
                    do="targets = (targets > 0).float(), or nn.CrossEntropyLoss() for more than two classes",
                    severity=Severity.ERROR,
                )
        elif call.classes and "float" not in call.target_dtype:
            yield from _outside(call.low, call.high, call.classes, "the batch")
    classes = next((call.classes for call in seen.calls if call.classes), None)
    own = seen.samples
    fine = all(call.high is None or (call.high < (classes or 0) and (call.low or 0) >= 0) for call in seen.calls)
    if classes and own.lowest is not None and own.highest is not None and fine:
        yield from _outside(own.lowest, own.highest, classes, "the data set")


def _outside(low: float, high: float, classes: int, whose: str) -> Iterator[Finding]:
    # A negative label that the loss ignores is left out of `low` by whoever looked.
    if high < classes and low >= 0:
        return
    odd = high if high >= classes else low
    remedy = (
        f"labels = labels - 1, if they begin with 1; else give the last layer {int(high) + 1} outputs"
        if high == classes and low >= 1
        else f"give the last layer {int(high) + 1} outputs"
        if high >= classes
        else f"nn.CrossEntropyLoss(ignore_index={int(low)}), if it marks what is not to count"
    )
    yield found(
        (CODE, NAME),
        f"{whose} has the label {int(odd)}, and the model {classes} scores per sample",
        why=WHY.format(classes=classes, last=classes - 1),
        do=remedy,
        severity=Severity.ERROR,
    )
