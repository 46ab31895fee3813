"""Keys with names that were changed since (`gamma` and `beta`, DenseNet's `norm.1`)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from rekindle.checks._case import Case, counted
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-82", "old-key-names", "0.1"
WHY = "{names}; load_state_dict calls the old names unexpected and the new ones missing"
DO = "rekindle convert {path} {stem}.renamed.pth{take} {rules}"

# torchvision's DenseNet up to 0.2: `denselayer1.norm.1.weight`, since then `denselayer1.norm1.weight`.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.(\d\..*)$")


def check(case: Case) -> Iterator[Finding]:
    """Look for the old names, and that the new ones are not there as well."""
    keys = set(case.keys)
    scales = [
        key
        for key in case.keys
        if key.endswith(".gamma") and f"{key[:-5]}beta" in keys and f"{key[:-5]}weight" not in keys
    ]
    dots = [key for key in case.keys if _DENSENET.match(key)]
    if scales:
        yield _finding(
            case,
            scales,
            2 * len(scales),
            f"{scales[0][:-5]}weight",
            "TensorFlow's names, as checkpoints converted from it have them",
            "--rename gamma=weight --rename beta=bias",
        )
    if dots:
        yield _finding(
            case,
            dots,
            len(dots),
            _DENSENET.sub(r"\1\2", dots[0]),
            "the names of torchvision's DenseNet before 0.3, when names could have dots",
            "--rename " + shlex.quote(r"/(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)/\1\2/"),
        )


def _finding(case: Case, keys: list[str], count: int, new: str, why: str, rules: str) -> Finding:
    part = ".".join(case.weights.path) if case.weights is not None else ""
    take = f" --take {shlex.quote(part)}" if part else ""
    return Finding(
        CODE,
        NAME,
        Severity.WARNING,
        f"{counted(count, 'key', 'has an old name', 'have old names')}: {keys[0]} is called {new} now",
        why=WHY.format(names=why),
        do=DO.format(path=case.path, stem=shlex.quote(case.stem), take=take, rules=rules),
        where=Where(key=keys[0]),
    )
