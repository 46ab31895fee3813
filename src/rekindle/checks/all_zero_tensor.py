"""Weight matrices that are all zeros (looked for with `--values`)."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, listed
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-76", "all-zero-tensor", "0.1"
WHY = "never written, never trained, or lost on the way: a layer that gives zeros whatever comes in"
DO = "compare with an earlier checkpoint, or with the file at its source"

# Zero at the start on purpose, and for ever where the adapter was never trained.
_MEANT = ("lora_B", "lora_up", "zero_conv")


def check(case: Case) -> Iterator[Finding]:
    """Report floating-point weights of two dimensions or more that hold only zeros; biases often do."""
    zero = [
        key
        for key, entry in case.entries.items()
        if len(entry.shape) >= 2
        and entry.numel > 1
        and "float" in entry.dtype
        and not any(word in key for word in _MEANT)
        and (facts := case.facts.get(entry.key)) is not None
        and facts.all_zero
    ]
    if not zero:
        return
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING,
        f"{len(zero):,} of {len(case.entries):,} weights {'are' if len(zero) != 1 else 'is'} all zeros: {listed(zero)}",
        why=WHY,
        do=DO,
        where=Where(key=zero[0]),
    )
