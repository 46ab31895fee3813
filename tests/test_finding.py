"""Findings are values, ordered by how bad they are."""

from __future__ import annotations

import pytest

from rekindle.finding import Finding, Severity, Where


def test_severities_are_ordered_worst_first():
    assert sorted(Severity, key=lambda severity: severity.rank) == [
        Severity.DANGER,
        Severity.ERROR,
        Severity.WARNING,
        Severity.NOTE,
    ]


def test_a_finding_is_a_value():
    first = Finding("RK-X-01", "name", Severity.NOTE, "what")
    assert first == Finding("RK-X-01", "name", Severity.NOTE, "what", "", "", Where())
    with pytest.raises(AttributeError):
        first.what = "other"  # type: ignore[misc] # frozen, on purpose
