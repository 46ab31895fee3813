"""A file that says of itself that some of its tensors are damaged: `rekindle salvage --keep-damaged` wrote it.

Their bytes are in the file all the same, and nothing else that loads it looks at the note.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from rekindle.checks._case import Case, counted, listed
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-89", "kept-damage", "0.1"
WHY = "the checksums of the file that they came from were wrong; some of their numbers are not those that were saved"
DO = "fill them from another save of the same model, or train on and watch them"

_NOTE = "rekindle.damaged"
_MAX_CHARACTERS = 10_000_000


def check(case: Case) -> Iterator[Finding]:
    """Read the note and name the tensors."""
    metadata = case.opened.facts.get("metadata")
    note = metadata.get(_NOTE) if isinstance(metadata, dict) else None
    if not isinstance(note, str) or len(note) > _MAX_CHARACTERS:
        return
    try:
        said = json.loads(note)
    except (ValueError, RecursionError):
        return
    keys = [entry.key for entry in case.opened.table if entry.key in said] if isinstance(said, dict) else []
    if keys:
        what = f"{counted(len(keys), 'tensor', 'is', 'are')} damaged, as the file itself says: {listed(keys)}"
        yield Finding(CODE, NAME, Severity.WARNING, what, WHY, DO, Where(key=keys[0]))
