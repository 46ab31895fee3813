"""Weights in float64: twice the bytes of what a model is normally run in."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.finding import Finding, Severity, Where
from rekindle.render import human_bytes

CODE, NAME, SINCE = "RK-FILE-73", "double-precision", "0.1"
WHY = "NumPy's default type, or torch.set_default_dtype(torch.float64), found its way into the model"
DO = "rekindle convert {path} {stem}.float32.pth{take} --dtype float32     (needs NumPy)"


def check(case: Case) -> Iterator[Finding]:
    """Add up the float64 tensors among the weights; single numbers do not count."""
    double = [(key, entry) for key, entry in case.entries.items() if entry.dtype == "float64" and entry.numel > 1]
    if not double:
        return
    part = ".".join(case.weights.path) if case.weights is not None else ""
    take = f" --take {shlex.quote(part)}" if part else ""
    size = sum(entry.size_bytes for _, entry in double)
    yield Finding(
        CODE,
        NAME,
        Severity.NOTE,
        f"{len(double):,} of {len(case.entries):,} weights are float64: {human_bytes(size)}, as float32 "
        f"{human_bytes(size // 2)}",
        why=WHY,
        do=DO.format(path=case.path, stem=shlex.quote(case.stem), take=take),
        where=Where(key=double[0][0]),
    )
