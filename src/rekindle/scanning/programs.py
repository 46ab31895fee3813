"""Pickle programs in a run of bytes, one after the other, and what is said about each.

A loader may go on after STOP (`pickle.load` called twice, an old torch stream), so a scan does. What a program names
is judged once per name; a danger stands, however the program ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.finding import Severity
from rekindle.scanning.names import Judgement, Level, judge, spellings
from rekindle.scanning.parts import described_parts, names_parts
from rekindle.scanning.report import Report, View
from rekindle.scanning.trace import Trace, describe, trace
from rekindle.source import MemorySource
from rekindle.tree import Global, Record

__all__ = ["Programs", "follow", "follow_all", "is_plausible", "report_program"]

_FIRST_WINDOW = 64 * 1024
_LAST_WINDOW = 16 * 1024**2
_CONVERT = "write the same content anew: rekindle convert FILE OUT; as it is, loading needs weights_only=False"


@dataclass(frozen=True, slots=True)
class Programs:
    """How a run of bytes reads as pickle programs.

    Attributes:
        count: programs that end with STOP.
        end: offset after the last of them.
        broken: the one that does not end, where there is one and it is a program at all.
    """

    count: int
    end: int
    broken: Trace | None


def follow(view: View, at: int, report: Report) -> Trace:
    """Follow the program that starts at byte `at`; reads no more than it takes, in growing windows."""
    window = _FIRST_WINDOW
    rest = view.size - at
    while True:
        length = min(window, rest, report.limits.pickle_bytes)
        if report.opcodes_left <= 0:
            return Trace(0, problem="no more opcodes to follow: too many were in what came before", limit="opcodes")
        found = trace(view.data.read(at, length), 0, report.limits, whole=length == rest)
        report.opcodes_left -= found.opcodes
        if not found.ran_out or length == rest:
            return found
        if length == report.limits.pickle_bytes:
            found.limit, found.problem = "pickle_bytes", f"more than {length:,} bytes"
            return found
        # It is followed from its start again: where all that is left is a few megabytes, they are taken at once.
        window = rest if rest <= _LAST_WINDOW else window * 8


def is_plausible(found: Trace, head: bytes) -> bool:
    """Tell whether bytes are meant as a program: it ends, or it starts as one, or it names what can be imported."""
    if not found.problem:
        return True
    if found.limit or (head[:1] == b"\x80" and head[1:2] and head[1] <= 5):
        return True
    return any(
        all(part.isidentifier() for part in name.module.split("."))
        or judge(name.module, name.name).level is Level.DANGEROUS
        for name in found.names
    )


def follow_all(view: View, report: Report, *, at: int = 0, first: Trace | None = None, most: int = 1 << 20) -> Programs:
    """Follow programs from byte `at` on, one after the other, and report what each does.

    Args:
        view: the bytes.
        report: takes the findings.
        at: where the first program starts.
        first: the first program, where it was followed already.
        most: stop after so many.
    """
    count = 0
    while at < view.size and count < most:
        found = first if first is not None else follow(view, at, report)
        first = None
        head = view.data.read(at, min(16, view.size - at))
        if not is_plausible(found, head):
            return Programs(count, at, None)
        report_program(found, view, at, report, checkpoint=at == 0 and view.depth == 0 and _describes_folder(found))
        if found.problem:
            return Programs(count, at, found)
        count += 1
        at += found.end
    return Programs(count, at, None)


def _describes_folder(found: Trace) -> bool:
    value = found.value
    return (
        isinstance(value, Record)
        and isinstance(value.function, Global)
        and (value.function.module, value.function.name) == ("torch.distributed.checkpoint.metadata", "Metadata")
    )


def report_program(found: Trace, view: View, at: int, report: Report, *, checkpoint: bool = False) -> None:
    """Say what a program that starts at byte `at` would import and call.

    Args:
        found: the program.
        view: where it stands.
        at: its first byte.
        report: takes the findings.
        checkpoint: whether it describes a torch.distributed.checkpoint folder.
    """
    calls: dict[tuple[str, str], list[Record]] = {}
    for call in found.calls:
        if isinstance(call.function, Global):
            calls.setdefault((call.function.module, call.function.name), []).append(call)
    names: dict[tuple[str, str], list[Global]] = {}
    for name in found.names:
        names.setdefault((name.module, name.name), []).append(name)
    described = described_parts(found, view.data.read(at, found.end)) if names_parts(found) else frozenset()
    if described:
        report.add(
            "RK-SCAN-23", "parts-of-ranks", Severity.NOTE,
            "describes tensors of which each rank holds a part, as FSDP2 and tensor parallelism save them",
            view.where(at + min(names[pair][0].offset for pair in described)),
            why=f"{len(described):,} classes of torch.distributed, made as torch saves them and never called; "
            "torch.load(weights_only=True) takes them after `import torch.distributed.tensor`",
        )  # fmt: skip
    for pair, asked in names.items():
        if pair in described:
            continue
        if found.lookups and found.lookups == found.looked_up and ("builtins", "getattr") in spellings(*pair):
            continue  # it was used for nothing but names with dots, which are judged by themselves
        judged = judge(*pair, checkpoint=checkpoint)
        if judged.level is not Level.HARMLESS:
            _report_name(pair, judged, asked, calls.get(pair, []), view, at, report)
    if found.refused is not None and not checkpoint and view.depth <= 1:
        opcode, offset = found.refused
        report.add(
            "RK-SCAN-22", "refused-opcode", Severity.NOTE,
            f"torch.load(weights_only=True) stops at the opcode {opcode}", view.where(at + offset),
            why="it knows the opcodes of pickle protocol 2 only; what the program does was followed all the same",
            do=_CONVERT,
        )  # fmt: skip
    for odd in found.odd:
        code, title, severity, why = _ODD[odd.kind]
        report.add(code, title, severity, odd.text, view.where(at + odd.offset), why=why)
    for offset, raw in found.blobs:
        _look_inside(raw, view, at + offset, report)


def _report_name(
    pair: tuple[str, str],
    judged: Judgement,
    asked: list[Global],
    calls: list[Record],
    view: View,
    at: int,
    report: Report,
) -> None:
    path = ".".join(pair)
    what = f"imports {path}"
    if calls:
        what += f" and calls it: {describe(calls[0], 160)}"
        if len(calls) > 1:
            what += f" and {len(calls) - 1:,} more"
    place = calls[0].offset if calls else asked[0].offset
    where = view.where(at + place)
    if judged.level is Level.DANGEROUS:
        report.add(
            "RK-SCAN-01",
            "dangerous-import",
            Severity.DANGER,
            what,
            where,
            why=judged.reason,
            do="do not load this file; get the model from a source you trust, as safetensors where there is one",
        )
    else:
        report.add("RK-SCAN-02", "unknown-import", Severity.WARNING, what, where, why=judged.reason)


_ODD = {
    "computed-name": (
        "RK-SCAN-03",
        "computed-import",
        Severity.DANGER,
        "no program that saves models does this; it hides from scanners what is imported",
    ),
    "changed-global": (
        "RK-SCAN-04",
        "changed-global",
        Severity.DANGER,
        "it changes a class or function of the loading process itself, for everything that comes later",
    ),
    "extension": (
        "RK-SCAN-05",
        "extension-code",
        Severity.WARNING,
        "what it stands for is not in the file",
    ),
    "odd-call": (
        "RK-SCAN-06",
        "odd-call",
        Severity.WARNING,
        "torch.load(weights_only=True) does not do this; what it amounts to is not known",
    ),
}


def _look_inside(raw: bytes, view: View, offset: int, report: Report) -> None:
    """Look at a byte string of a program: some functions load what is in it."""
    from rekindle.scanning.content import scan_bytes  # noqa: PLC0415 - they call each other

    inner = view.inside(f"bytes at {view.base + offset:,}", MemorySource(raw, view.data.path))
    scan_bytes(inner, report)
