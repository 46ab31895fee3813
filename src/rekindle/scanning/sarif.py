"""A scan as SARIF 2.1.0, the form in which code hosts show findings beside a change.

Facts: OASIS SARIF 2.1.0, sections 3.14 (run), 3.27 (result), 3.30 (region: `byteOffset`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from rekindle import __version__
from rekindle.finding import Finding, Severity
from rekindle.verbs.scan import Scan

__all__ = ["sarif"]

_LEVEL = {Severity.DANGER: "error", Severity.ERROR: "warning", Severity.WARNING: "warning", Severity.NOTE: "note"}


def sarif(scans: Iterable[Scan]) -> dict[str, object]:
    """Return the SARIF log of scans, as a value for `json.dumps`."""
    rules: dict[str, int] = {}
    described: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for path, finding in _all(scans):
        if finding.code not in rules:
            rules[finding.code] = len(rules)
            described.append(
                {"id": finding.code, "name": finding.name, "shortDescription": {"text": finding.name.replace("-", " ")}}
            )
        results.append(_result(path, finding, rules[finding.code]))
    driver = {
        "name": "rekindle",
        "version": __version__,
        "rules": described,
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _all(scans: Iterable[Scan]) -> Iterator[tuple[str, Finding]]:
    for scan in scans:
        for finding in scan.findings:
            yield scan.path, finding
        yield from _all(scan.files)


def _result(path: str, finding: Finding, rule: int) -> dict[str, object]:
    text = finding.what + (f": {finding.why}" if finding.why else "")
    place: dict[str, object] = {"artifactLocation": {"uri": quote(path.replace(os.sep, "/"))}}
    location: dict[str, object] = {"physicalLocation": place}
    where = finding.where
    if where.member is not None:
        # An offset inside a member is none of the file's.
        location["logicalLocations"] = [{"fullyQualifiedName": where.member, "kind": "member"}]
    elif where.offset is not None:
        place["region"] = {"byteOffset": where.offset, "byteLength": 0}
    return {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": _LEVEL[finding.severity],
        "message": {"text": text},
        "locations": [location],
        "properties": {"severity": finding.severity.value, "member": where.member, "offset": where.offset},
    }
