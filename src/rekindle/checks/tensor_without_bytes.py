"""Tensors without values: saved from the meta device."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, listed
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-85", "tensor-without-bytes", "0.1"
WHY = "the model was saved before its weights were filled in (device='meta'); the shapes are all there is"
DO = "save again after the weights were loaded, or get the file from its source"


def check(case: Case) -> Iterator[Finding]:
    """Count tensors on the meta device."""
    empty = [entry.key for entry in case.opened.table if entry.storage.device == "meta" and entry.numel]
    if not empty:
        return
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING,
        f"{len(empty):,} of {len(case.opened.table):,} tensors have a shape and no values: {listed(empty)}",
        why=WHY,
        do=DO,
        where=Where(key=empty[0]),
    )
