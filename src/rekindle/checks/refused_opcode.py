"""`torch.load` with its default, `weights_only=True`, does not know an opcode of the pickle (protocol 4 or 5)."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-69", "refused-opcode", "0.1"
WHY = (
    "weights_only=True, the default since torch 2.6, knows the opcodes of pickle protocol 2; this file was saved with "
    "another one, so it is refused however harmless it is"
)
DO = "{fix}"


def check(case: Case) -> Iterator[Finding]:
    """Name the opcode at which torch's own restricted loader would stop."""
    verdict = case.verdict
    if verdict is None or verdict.operand is None or case.opened.format == "pickle":
        return
    if verdict.refused or verdict.imports:  # torch stops there first, and the same conversion helps
        return
    number, name, offset, program = verdict.operand
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING,
        f"torch.load stops at `Unsupported operand {number}`: {name} at byte {offset:,} of {program}",
        why=WHY,
        do=DO.format(fix=case.fix),
        where=Where(member=program, offset=offset),
    )
