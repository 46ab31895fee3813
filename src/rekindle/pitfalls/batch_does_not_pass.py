"""A batch that the model or the loss refuses."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding, Severity
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-31", "batch-does-not-pass", "0.2"
WHY = "{reason}"
DO = "{remedy}"


def check(seen: Seen) -> Iterator[Finding]:
    """Say what was raised, in the words of the known errors."""
    if seen.raised is not None:
        what, why, do = seen.raised
        yield found((CODE, NAME), what, why=why, do=do, severity=Severity.ERROR)
