"""Small views of large storages: bytes in the file that no tensor shows."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.finding import Finding, Severity, Where
from rekindle.render import human_bytes
from rekindle.writers.sharing import dragged_storages

CODE, NAME, SINCE = "RK-FILE-70", "needless-bytes", "0.1"
WHY = (
    "a slice shares the storage of the tensor it was cut from, and torch.save writes storages whole; save slice.clone()"
)
DO = "{fix}"


def check(case: Case) -> Iterator[Finding]:
    """Add up what storages have beyond what tensors reach over."""
    dragged = dragged_storages(case.opened.tree)
    if not dragged:
        return
    needless = sum(found.storage.size_bytes - found.used_bytes for found in dragged)
    worst = max(dragged, key=lambda found: found.storage.size_bytes - found.used_bytes)
    key = next((entry.key for entry in case.opened.table if entry.storage is worst.storage), None)
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING,
        f"{human_bytes(needless)} of the file belong to no tensor: {key} shows {human_bytes(worst.used_bytes)} of a "
        f"storage of {human_bytes(worst.storage.size_bytes)}",
        why=WHY,
        do=DO.format(fix=case.fix),
        where=Where(key=key),
    )
