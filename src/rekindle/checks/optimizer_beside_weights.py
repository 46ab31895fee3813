"""The optimizer's buffers are in the file and are most of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.finding import Finding, Severity
from rekindle.render import human_bytes
from rekindle.tree import Module

CODE, NAME, SINCE = "RK-FILE-77", "optimizer-beside-weights", "0.1"
WHY = "needed to go on with the training, and for nothing else; Adam keeps two numbers beside each weight"
DO = "rekindle convert {path} {stem}.weights.pth --take {part}"

_MIN_BYTES = 64 * 1024


def check(case: Case) -> Iterator[Finding]:
    """Compare the bytes under the optimizer's key with those of the weights."""
    weights = case.weights
    if weights is None or not weights.path or case.opened.format in {"run", "snapshot"}:
        return
    optimizer = sum(entry.size_bytes for entry in case.opened.table if "optim" in entry.key.partition(".")[0].lower())
    model = sum(entry.size_bytes for entry in case.entries.values())
    if optimizer < max(model, _MIN_BYTES):
        return
    part = ".".join(weights.path)
    do = DO.format(path=case.path, stem=shlex.quote(case.stem), part=shlex.quote(part))
    yield Finding(
        CODE,
        NAME,
        Severity.NOTE,
        f"{human_bytes(optimizer)} belong to the optimizer and {human_bytes(model)} to the model",
        why=WHY,
        do=case.fix if isinstance(weights.value, Module) else do,
    )
