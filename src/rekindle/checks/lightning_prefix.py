"""Keys carry the name of an attribute of a LightningModule (`model.`)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.finding import Finding, Severity, Where
from rekindle.tree import lookup

CODE, NAME, SINCE = "RK-FILE-87", "lightning-prefix", "0.1"
WHY = "a checkpoint of Lightning names weights from its own module down; the network alone does not know that part"
DO = "rekindle convert {path} {stem}.plain.pth --take {part} --strip {prefix}"


def check(case: Case) -> Iterator[Finding]:
    """Look for one first part that all keys of a Lightning checkpoint share."""
    if lookup(case.opened.tree, "pytorch-lightning_version") is None or case.weights is None or not case.weights.path:
        return
    firsts = {key.partition(".")[0] for key in case.keys if "." in key}
    if len(firsts) != 1 or any("." not in key for key in case.keys):
        return
    prefix = f"{firsts.pop()}."
    yield Finding(
        CODE,
        NAME,
        Severity.NOTE,
        f"all {len(case.keys):,} keys start with `{prefix}`, the name of an attribute of the LightningModule",
        why=WHY,
        do=DO.format(
            path=case.path,
            stem=shlex.quote(case.stem),
            part=shlex.quote(".".join(case.weights.path)),
            prefix=shlex.quote(prefix),
        ),
        where=Where(key=case.keys[0]),
    )
