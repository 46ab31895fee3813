"""A bare pickle, without a container around it: `pickle.dump` of anything, by any protocol.

It has no place for storages: tensors in it carry their bytes as a nested stream (`_nested`), arrays as byte strings.
Protocols 0 and 1 have no magic number; a file is taken for one when its program runs from the first byte to the last.
"""

from __future__ import annotations

from collections.abc import Callable

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._growing import run_growing
from rekindle.formats._storages import odd_persistent_id
from rekindle.formats.torch_stream import is_mangled, is_stream
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import Source
from rekindle.tensors import TensorTable
from rekindle.tree import Global, Record, Value

__all__ = ["NAME", "read", "sniff"]

NAME = "pickle"

# How a program of protocol 0 or 1 that holds something worth saving begins: a mark, an empty container, a class.
_TEXT_STARTS = frozenset(b"(]})c")
_TEXT_LIMIT = 16 * 1024**2


def sniff(head: bytes, source: Source) -> bool:
    """Tell whether it is a pickle of protocol 2 to 5, or a whole program of protocol 0 or 1."""
    if is_stream(head) or is_mangled(head):
        return False
    if len(head) > 2 and head[0] == 0x80:
        return 2 <= head[1] <= 5
    if not head or head[0] not in _TEXT_STARTS or not 3 < source.size <= _TEXT_LIMIT:
        return False
    if source.read(source.size - 1, 1) != b".":
        return False
    from rekindle.unpickling.machine import run_program  # noqa: PLC0415 - only files that end like a pickle

    try:
        outcome = run_program(source.read(0, source.size), persistent=_no_storage, limits=DEFAULT_LIMITS)
    except UnreadableFile:
        return False
    return outcome.end == source.size


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Run the program; nothing that it names is imported or called.

    Raises:
        LimitExceeded: running on would need more than `limits` allows.
    """
    from rekindle.listing import table_of  # noqa: PLC0415

    findings: list[Finding] = []
    met: list[Value] = []

    def persistent(pid: Value) -> Value:
        met.append(pid)
        return _no_storage(pid)

    def fresh() -> tuple[None, Callable[[Value], Value]]:
        met.clear()
        return None, persistent

    try:
        _, outcome = run_growing(source, 0, limits, fresh)
    except LimitExceeded:
        raise
    except UnreadableFile as error:
        findings.append(
            Finding(
                error.code or "RK-FILE-07",
                "broken-pickle",
                Severity.ERROR,
                error.what if error.what.startswith(source.path) else f"{source.path}: {error.what}",
                error.why,
                error.do,
                Where(),
            )
        )
        return Opened(
            source.path,
            NAME,
            source.size,
            None,
            TensorTable(()),
            tuple(findings),
            close_files=source.close,
            listed=False,
        )
    findings.extend(outcome.findings)
    findings.extend(odd_persistent_id(pid) for pid in met[:4])
    if outcome.end < source.size:
        findings.append(
            Finding(
                "RK-FILE-15",
                "trailing-bytes",
                Severity.WARNING,
                f"{source.size - outcome.end:,} bytes follow the end of the pickle",
                why="a second object was pickled into the same file, or a library keeps its arrays there (joblib)",
                where=Where(offset=outcome.end),
            )
        )
    tree = outcome.value
    table, found = table_of(tree, limits)
    facts: dict[str, object] = {"protocol": outcome.protocol}
    return Opened(
        source.path,
        NAME,
        source.size,
        tree,
        table,
        (*findings, *found),
        (),
        facts,
        source.close,
        globals=tuple(outcome.globals),
    )


def _no_storage(pid: Value) -> Value:
    return Record(Global("rekindle", "persistent_id"), (pid,))
