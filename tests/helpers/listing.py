"""What rekindle lists of a file, in the form of `zoo.rows`."""

from __future__ import annotations

from rekindle.gather import gather
from rekindle.opened import Opened


def listed(opened: Opened) -> list[dict[str, object]]:
    """Return key, dtype, shape, stride, offset and digest of each entry."""
    import hashlib

    found = []
    for entry in opened.table:
        running = hashlib.sha256()
        for chunk in gather(entry, conj=entry.conj, neg=entry.neg).chunks():
            running.update(chunk)
        found.append(
            {
                "key": entry.key,
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "stride": list(entry.stride),
                "offset": entry.offset,
                "digest": running.hexdigest(),
            }
        )
    return found


def codes(opened: Opened) -> list[str]:
    """Return the codes of the findings, in order."""
    return [finding.code for finding in opened.findings]
