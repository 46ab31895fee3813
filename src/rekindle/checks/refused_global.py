"""`torch.load` with its default, `weights_only=True`, refuses a class or function that the file names."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._allowing import allowing_line, is_dangerous
from rekindle.checks._case import Case, listed
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-68", "refused-global", "0.1"
WHY = (
    "weights_only=True, the default since torch 2.6, allows tensors and plain values only; making any other object of "
    "Python can run code"
)
DO = "{fix}     (or, if you trust the file: {line})"


def check(case: Case) -> Iterator[Finding]:
    """Name what torch's own restricted loader would refuse, all of it at once."""
    verdict = case.verdict
    if verdict is None or case.opened.format == "pickle":
        return
    if not (verdict.refused or verdict.imports or verdict.stops):
        return
    refused = verdict.refused
    if refused:
        what = f"torch.load stops at `Unsupported global: GLOBAL {refused[0].removeprefix('builtins.')}`"
        if len(refused) > 1:
            what += f"; it refuses {len(refused):,} names: {listed(refused, 8)}"
    elif verdict.imports:
        what = f"torch.load stops until {listed(verdict.imports)} was imported"
    else:
        what = f"torch.load stops at `{verdict.stops}`"
    do = case.fix
    if verdict.can_be_allowed and not any(is_dangerous(*pair) for pair in verdict.named):
        do = DO.format(fix=case.fix, line=allowing_line(refused))
    yield Finding(CODE, NAME, Severity.WARNING, what, WHY, do, Where(member=case.programs[0].name))
