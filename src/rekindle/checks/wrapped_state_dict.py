"""The weights lie one level down, beside other things."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rekindle.checks._case import Case, counted, listed
from rekindle.finding import Finding, Severity, Where
from rekindle.tree import Map, Module

CODE, NAME, SINCE = "RK-FILE-66", "wrapped-state-dict", "0.1"
WHY = (
    "a checkpoint for going on with a training; load_state_dict wants what is under {key} and calls the rest unexpected"
)
DO = "rekindle convert {path} {stem}.weights.pth --take {part}"


def check(case: Case) -> Iterator[Finding]:
    """Say under which key the weights are, and what is beside them."""
    weights, tree = case.weights, case.opened.tree
    if weights is None or not weights.path or not isinstance(tree, Map) or case.opened.format in {"run", "snapshot"}:
        return
    others = [str(key) for key, _ in tree.pairs if key != weights.path[0]]
    key = "".join(f"[{part!r}]" for part in weights.path)
    what = f"the weights ({counted(len(weights.state), 'tensor')}) lie under {key}"
    if others:
        what += f", beside {listed(others)}"
    if weights.others:
        what += f"; more weights lie under {listed(['.'.join(path) for path in weights.others])}"
    part = ".".join(weights.path)
    do = DO.format(path=case.path, stem=shlex.quote(case.stem), part=shlex.quote(part))
    # A module is written as its state dict anyway; the fix does the same and finds it by itself.
    yield Finding(
        CODE,
        NAME,
        Severity.NOTE,
        what,
        why=WHY.format(key=key),
        do=case.fix if isinstance(weights.value, Module) else do,
        where=Where(key=part),
    )
