"""BatchNorm's `num_batches_tracked` is missing.

`load_state_dict` fills it in for state dicts that say they are older than torch 0.4.1 (version 1 of BatchNorm's entry
in `_metadata`) or say nothing; a state dict that says version 2 and lacks it is refused. Facts: PyTorch 2.13
`torch/nn/modules/batchnorm.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, listed
from rekindle.finding import Finding, Severity, Where
from rekindle.tree import Map, lookup

CODE, NAME, SINCE = "RK-FILE-81", "missing-batch-counts", "0.1"
WHY = (
    "a program left it out; the file says that it follows the newer form, so load_state_dict calls "
    "`{key}` missing and stops"
)
DO = "model.load_state_dict(state, strict=False); the count only matters for BatchNorm with momentum=None"

_OLD = "written before torch 0.4.1, or converted by a program that left it out; load_state_dict fills it in"


def check(case: Case) -> Iterator[Finding]:
    """Compare which norms have running statistics and which have a count."""
    keys = set(case.keys)
    norms = [key.removesuffix("running_mean") for key in case.keys if key.endswith("running_mean")]
    missing = [norm for norm in norms if f"{norm}running_var" in keys and f"{norm}num_batches_tracked" not in keys]
    if not missing:
        return
    new = [norm for norm in missing if _version(case, norm) >= 2]
    first = (new or missing)[0]
    key = f"{first}num_batches_tracked"
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING if new else Severity.NOTE,
        f"{len(missing):,} of {len(norms):,} norms have running statistics and no num_batches_tracked: "
        + listed([norm.removesuffix(".") or "the model itself" for norm in missing]),
        why=WHY.format(key=key) if new else _OLD,
        do=DO if new else "",
        where=Where(key=f"{first}running_mean"),
    )


def _version(case: Case, norm: str) -> int:
    value = case.weights.value if case.weights is not None else None
    metadata = lookup(value.attributes, "_metadata") if isinstance(value, Map) else None
    version = lookup(lookup(metadata, norm.removesuffix(".")), "version")
    return version if isinstance(version, int) else 0
