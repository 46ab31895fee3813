"""Look at a run of bytes by its content, whatever it is called: archive, compressed, array, safetensors, program, text.

Every run of bytes is also read as a pickle from its first byte, because that is what a loader does that was told to.
What nothing here knows is an ERROR: not analysed. Only where raw bytes belong (the storages of tensors) is it ordinary.
"""

from __future__ import annotations

from enum import Enum

from rekindle.errors import UnreadableFile
from rekindle.finding import Severity
from rekindle.scanning.programs import follow, follow_all, is_plausible, report_program
from rekindle.scanning.report import NESTING, Report, View
from rekindle.scanning.trace import Trace
from rekindle.unpickling.opcodes import BY_CODE

__all__ = ["Role", "scan_bytes", "scan_content"]

_HEAD_BYTES = 4096


class Role(Enum):
    """What a run of bytes is there for."""

    FILE = "file"  # given by name, or found in a folder
    MEMBER = "member"  # of an archive
    CODE = "code"  # of a TorchScript archive, which has a reader of its own for it
    RAW = "raw"  # the storage of a tensor, where any bytes may be
    REST = "rest"  # bytes where no format has any: before, between and after


def scan_content(view: View, report: Report, role: Role) -> str:
    """Look at everything in a run of bytes.

    Args:
        view: the bytes.
        report: takes the findings.
        role: what they are there for.

    Returns:
        What it is: a name of a format as `inspect` has it, or ``text``, ``empty``, ``raw``, ``unknown``...
    """
    if not view.size:
        return "empty"
    head = view.data.head(_HEAD_BYTES)
    if view.depth > NESTING:
        if role is not Role.RAW:
            report.unreadable(
                "RK-SCAN-13",
                "nested-too-deep",
                f"archives more than {NESTING} deep in each other",
                view.where(),
                "looking on is bounded, so that a file cannot keep a scan busy for ever",
            )
        return "unknown"
    if role is Role.RAW and BY_CODE[head[0]] is None:  # no program begins so, and there may be 100,000 of them
        return _scan_container(view, head, report, role) or "raw"
    first = follow(view, 0, report)
    kind = _scan_container(view, head, report, role)
    if kind:
        if first.names and (is_plausible(first, head) and (role is not Role.RAW or not first.problem)):
            report_program(first, view, 0, report)
            report.unreadable(
                "RK-SCAN-08",
                "two-readings",
                f"the bytes are {kind} and, read by pickle.load, also a program that imports {first.names[0].path}",
                view.where(),
                "files with two readings are made to show one thing to a scanner and another to a loader",
            )
        return kind
    if role is Role.RAW:
        return _scan_raw(view, first, report)
    return _scan_programs(view, first, head, report, role)


def _scan_container(view: View, head: bytes, report: Report, role: Role) -> str:
    """Look at it as the container that it is; empty where it is none."""
    from rekindle.scanning.archives import find_archive, scan_archive  # noqa: PLC0415 - they call each other

    # They call this module.
    from rekindle.scanning.packed import is_tar, scan_compressed, scan_tar  # noqa: PLC0415

    # The last member of a tar may be a zip, whose directory then stands near the end of the tar; it is found there.
    if role is not Role.RAW and is_tar(head, view.size):
        return scan_tar(view, head, report)
    end = find_archive(view, head, thorough=role is not Role.RAW)
    if end is not None:
        return scan_archive(view, end, report)
    if role is Role.RAW:
        return ""
    from rekindle.scanning.arrays import scan_npy, scan_safetensors  # noqa: PLC0415

    for scanner in (scan_compressed, scan_npy, scan_safetensors):
        kind = scanner(view, head, report)
        if kind:
            return kind
    return ""


def _scan_raw(view: View, first: Trace, report: Report) -> str:
    """Look at the bytes of a tensor: no loader runs them, so only what is certainly a program is worth a word."""
    from rekindle.scanning.names import Level, judge  # noqa: PLC0415

    dangerous = any(judge(name.module, name.name).level is Level.DANGEROUS for name in first.names)
    if first.names and (dangerous or not first.problem):
        report_program(first, view, 0, report)
        report.add(
            "RK-SCAN-07",
            "hidden-program",
            Severity.WARNING,
            "the bytes of a tensor are a pickle program",
            view.where(),
            why="no loader runs it from here; somebody may unpack it and load it by itself",
        )
    return "raw"


def _scan_programs(view: View, first: Trace, head: bytes, report: Report, role: Role) -> str:
    from rekindle.formats.torch_stream import is_stream  # noqa: PLC0415

    if not is_plausible(first, head):
        return _scan_other(view, head, report, role)
    if role is Role.REST:
        report.add(
            "RK-SCAN-07",
            "hidden-program",
            Severity.WARNING,
            "a pickle program stands where no format has one: before, between or after other parts",
            view.where(),
            why="a loader that starts here runs it, and one that starts elsewhere does not",
        )
    stream = is_stream(head)
    programs = follow_all(view, report, first=first, most=5 if stream else 1 << 20)
    if programs.broken is not None:
        _report_broken(programs.broken, view, programs.end, report)
    elif stream:
        _scan_storages(view, report)
    elif programs.end < view.size:
        _scan_rest(view, programs.end, report)
    return "torch-stream" if stream else "pickle"


def _report_broken(broken: Trace, view: View, at: int, report: Report) -> None:
    where = view.where(at + broken.end)
    if broken.limit:
        report.unreadable(
            "RK-SCAN-10",
            "limit-reached",
            f"the pickle at byte {view.base + at:,} has {broken.problem}; the rest was not looked at",
            where,
            f"looking is bounded by Limits.{broken.limit}",
        )
        return
    report.unreadable(
        "RK-SCAN-09",
        "broken-program",
        f"the pickle at byte {view.base + at:,} breaks at byte {where.offset:,}: {broken.problem}",
        where,
        "the file was cut or damaged, or it is no pickle; what follows was not looked at",
    )


def _scan_storages(view: View, report: Report) -> None:
    """Find the end of an old torch stream; what follows it is looked at by itself."""
    from rekindle.formats.torch_stream import read_stream  # noqa: PLC0415

    try:
        stream = read_stream(view.data, report.limits)
    except UnreadableFile as error:
        report.unreadable("RK-SCAN-09", "broken-program", error.what, view.where(), error.why)
        return
    for finding in stream.findings:
        if finding.severity.rank <= Severity.ERROR.rank:
            report.unreadable("RK-SCAN-09", "broken-program", finding.what, view.where(), finding.why)
    if stream.listed and stream.end < view.size:
        _scan_rest(view, stream.end, report)


def _scan_rest(view: View, at: int, report: Report) -> None:
    rest = view.part(at, view.size - at)
    scan_content(View(rest.data, rest.member, rest.base, view.depth + 1), report, Role.REST)


def _scan_other(view: View, head: bytes, report: Report, role: Role) -> str:
    from rekindle.scanning.others import report_other  # noqa: PLC0415 - rare

    if role is Role.CODE:
        return "text"
    return report_other(view, head, report, is_file=role is Role.FILE)


def scan_bytes(view: View, report: Report) -> None:
    """Look at a byte string in a program: it is data, unless it is something that a function could load."""
    from rekindle.formats.torch_stream import is_stream  # noqa: PLC0415
    from rekindle.scanning.packed import is_compressed  # noqa: PLC0415

    head = view.data.head(64)
    if (head[:1] == b"\x80" and head[1:2] <= b"\x05") or is_stream(head):
        found = follow(view, 0, report) if view.depth <= NESTING else None
        if found is None or not found.problem or found.names:
            scan_content(view, report, Role.MEMBER)
    elif head.startswith(b"PK\x03\x04") or is_compressed(head):
        scan_content(view, report, Role.MEMBER)
    elif view.depth <= NESTING and head[:1] in b"c(}])i\x8c\x95X":
        found = follow(view, 0, report)
        if found.names and (not found.problem or is_plausible(found, head)):
            report_program(found, view, 0, report)
