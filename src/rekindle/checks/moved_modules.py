"""The file names classes by paths that not every version of a library has (`numpy._core`, `pathlib._local`)."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, listed
from rekindle.finding import Finding, Severity

CODE, NAME, SINCE = "RK-FILE-84", "moved-modules", "0.1"
WHY = "where the path does not exist, torch.load ends in `No module named` or `cannot instantiate`"
DO = "{fix}"

_MOVED = (
    ("numpy._core", "NumPy 2 and newer (in 1.x it is numpy.core)"),
    ("pathlib._local", "Python 3.13 (elsewhere it is pathlib)"),
    ("torch.tensor.", "torch up to 1.8 (since then it is torch._tensor)"),
)
_PATHS = {"PosixPath": "Linux and macOS (Windows cannot make one)", "WindowsPath": "Windows (nobody else can make one)"}


def check(case: Case) -> Iterator[Finding]:
    """Name the paths that tie the file to a version or a system."""
    if case.verdict is None:
        return
    found: dict[str, str] = {}
    for module, name in case.verdict.named:
        path = f"{module}.{name}"
        for prefix, there in _MOVED:
            if path.startswith(prefix):
                found.setdefault(f"{path}: {there}", path)
        if module.startswith("pathlib") and name in _PATHS:
            found.setdefault(f"{path}: {_PATHS[name]}", path)
    if found:
        yield Finding(
            CODE,
            NAME,
            Severity.NOTE,
            f"loading needs names that only some versions have: {listed(list(found))}",
            why=WHY,
            do=DO.format(fix=case.fix),
        )
