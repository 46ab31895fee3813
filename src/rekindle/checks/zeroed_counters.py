"""Counters that are 0 beside moments or statistics that are not: lost by torch's Hugging Face checkpoint writer.

`HuggingFaceStorageWriter` with `enable_consolidation=True` (torch 2.5 to 2.15) writes every 0-dimensional tensor as 0
and says nothing. The counters are the only trace: an optimizer whose moments are not 0 has done a step.
"""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, listed
from rekindle.checks._values import is_all_zero
from rekindle.finding import Finding, Severity, Where
from rekindle.tensors import TensorEntry

CODE, NAME, SINCE = "RK-FILE-83", "zeroed-counters", "0.1"
WHY = "torch's HuggingFaceStorageWriter with enable_consolidation=True writes every tensor without dimensions as 0"
DO = "read the files from before the consolidation: in them the numbers are right"

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "sum")
_MOST = 64
_LOOK_BYTES = 64 * 1024


def check(case: Case) -> Iterator[Finding]:
    """Look at counters without dimensions and at the tensors beside them."""
    if case.opened.format not in {"safetensors", "hub-shards"}:
        return
    for counter, beside, severity in (
        ("step", _MOMENTS, Severity.WARNING),
        ("num_batches_tracked", ("running_mean",), Severity.NOTE),  # converted models have honest zeros here
    ):
        zeroed = _zeroed(case, counter, beside)
        if zeroed:
            yield Finding(
                CODE,
                NAME,
                severity,
                f"every {counter} is 0, while what belongs to it is not: {listed(zeroed)}",
                why=WHY,
                do=DO if severity is Severity.WARNING else "",
                where=Where(key=zeroed[0]),
            )


def _zeroed(case: Case, counter: str, beside: tuple[str, ...]) -> list[str]:
    """Return the keys of the counters; none unless all of them are 0."""
    table = case.opened.table
    counters: list[TensorEntry] = [
        entry for entry in table if entry.shape == () and entry.key.rpartition(".")[2] == counter
    ][:_MOST]
    found = []
    for entry in counters:
        if is_all_zero(entry, 16) is not True:
            return []
        prefix = entry.key.removesuffix(counter)
        for name in beside:
            if prefix + name in table and is_all_zero(table[prefix + name], _LOOK_BYTES) is False:
                found.append(entry.key)
                break
    return found
