"""The pickle was written by Python 2 and holds byte strings."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.errors import UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.unpickling.program import read_ops

CODE, NAME, SINCE = "RK-FILE-80", "python2-pickle", "0.1"
WHY = (
    "Python 2 wrote texts as bytes; those that are not UTF-8 stop torch.load with `UnicodeDecodeError: 'utf-8' codec "
    "can't decode byte`"
)
DO = '{fix}     (or torch.load({path!r}, encoding="latin1"))'

_TEXTS = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))


def check(case: Case) -> Iterator[Finding]:
    """Look for the opcodes of byte strings, which Python 3 never writes."""
    if case.verdict is None or not case.verdict.byte_texts:
        return
    texts = 0
    bad = ""
    for program in case.programs:
        try:
            for op in read_ops(program.data, program.start, case.limits):
                if op.name in _TEXTS and isinstance(op.argument, bytes):
                    texts += 1
                    if not bad and not _is_text(op.argument):
                        bad = f"byte {op.argument[_first_bad(op.argument)]:#04x} at {op.offset:,} of {program.name}"
        except UnreadableFile:
            return
    if not texts:
        return
    what = f"a pickle of Python 2: {texts:,} of its texts are byte strings"
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING if bad else Severity.NOTE,
        what + (f", and some are not UTF-8 ({bad})" if bad else ", all of them plain UTF-8"),
        why=WHY if bad else "Python 2 wrote texts as bytes; these read the same in Python 3",
        do=DO.format(fix=case.fix, path=case.opened.path) if bad else "",
        where=Where(member=case.programs[0].name),
    )


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _first_bad(data: bytes) -> int:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0
