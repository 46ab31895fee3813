"""NaN or infinite numbers in tensors (looked for with `--values`)."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, counted, listed
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-75", "non-finite-values", "0.1"
WHY = "the training diverged before this file was saved, or its bytes are damaged; a model that holds NaN answers NaN"
DO = "take an earlier checkpoint of the same run"
_INFINITE = "a number too large for its type, after a cast to a smaller one for instance; masks hold -inf on purpose"


def check(case: Case) -> Iterator[Finding]:
    """Report tensors with NaN, and those with infinities only."""
    nan = [(key, facts.nan_at) for key, facts in case.facts.items() if facts.nan_at is not None]
    infinite = [
        (key, facts.infinite_at)
        for key, facts in case.facts.items()
        if facts.infinite_at is not None and facts.nan_at is None
    ]
    if nan:
        key, at = nan[0]
        holds = counted(len(nan), "tensor", "holds", "hold")
        yield Finding(
            CODE,
            NAME,
            Severity.ERROR,
            f"{holds} NaN: {listed([key for key, _ in nan])}; the first is element {at:,} of {key}",
            why=WHY,
            do=DO,
            where=Where(key=key),
        )
    if infinite:
        key, at = infinite[0]
        holds = counted(len(infinite), "tensor", "holds", "hold")
        yield Finding(
            CODE,
            NAME,
            Severity.WARNING,
            f"{holds} infinities: {listed([key for key, _ in infinite])}; the first is element {at:,} of {key}",
            why=_INFINITE,
            where=Where(key=key),
        )
