"""A scan as SARIF 2.1.0, the form in which code hosts show findings beside a change.

Law: what comes from a file is data: it is escaped as on a terminal, since viewers show a message as it is.

Facts: OASIS SARIF 2.1.0, sections 3.4 (artifact locations: a URI, absolute ones with their scheme), 3.14 (run), 3.27
(result), 3.30 (region: `byteOffset`). Logs of all attacks of the tests were validated against its published schema.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from rekindle import __version__
from rekindle.finding import Finding, Severity
from rekindle.render import escape
from rekindle.verbs.scan import Scan

__all__ = ["sarif"]

_LEVEL = {Severity.DANGER: "error", Severity.ERROR: "warning", Severity.WARNING: "warning", Severity.NOTE: "note"}
_TEXT = 1000


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
    place: dict[str, object] = {"artifactLocation": {"uri": _uri(path)}}
    location: dict[str, object] = {"physicalLocation": place}
    where = finding.where
    member = None if where.member is None else escape(where.member, _TEXT)
    if member is not None:
        # An offset inside a member is none of the file's.
        location["logicalLocations"] = [{"fullyQualifiedName": member, "kind": "member"}]
    elif where.offset is not None:
        place["region"] = {"byteOffset": where.offset, "byteLength": 0}
    return {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": _LEVEL[finding.severity],
        "message": {"text": escape(text, _TEXT)},
        "locations": [location],
        "properties": {"severity": finding.severity.value, "member": member, "offset": where.offset},
    }


def _uri(path: str) -> str:
    """Return a path as a URI: relative as it was given, absolute with its scheme."""
    plain = quote(os.fsencode(path.replace(os.sep, "/")))
    return f"file://{plain}" if plain.startswith("/") else plain
