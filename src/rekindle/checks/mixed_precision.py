"""Weights in several floating-point types."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-74", "mixed-precision", "0.1"
WHY = (
    "often meant (norms and scales kept in float32); if not, an operation on two of them stops at `expected scalar "
    "type` or `mat1 and mat2 must have the same dtype`"
)
DO = "one type for all: model.load_state_dict(state) casts to the type that the model has; or model.to(torch.float32)"

_FLOATS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def check(case: Case) -> Iterator[Finding]:
    """Count the floating-point types of the weights; float64 has a check of its own."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for key, entry in case.entries.items():
        if entry.dtype in _FLOATS and entry.numel > 1:
            counts[entry.dtype] = counts.get(entry.dtype, 0) + 1
            first.setdefault(entry.dtype, key)
    if len(counts) < 2:
        return
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rare = ordered[-1][0]
    yield Finding(
        CODE,
        NAME,
        Severity.NOTE,
        "the weights have several types: "
        + ", ".join(f"{count:,} {dtype}" for dtype, count in ordered)
        + f" (such as {first[rare]})",
        why=WHY,
        do=DO,
        where=Where(key=first[rare]),
    )
