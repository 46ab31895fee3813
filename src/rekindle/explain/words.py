"""What is said: a report as lines for people and as JSON for programs.

First line: what happened, with this case's names, and the code. Then the user's own line, the cause, what to type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event
from rekindle.explain.report import Explained, Report
from rekindle.render import escape

__all__ = ["cause_lines", "explained_lines", "report_json", "report_lines"]

_MAX_FAILURES = 4
_MAX_CAUSES = 3
_WIDTH = 110
_INDENT = " " * 10


def report_lines(report: Report, source: str = "") -> Iterator[str]:
    """Yield the lines that `rekindle explain` prints of a log.

    Args:
        report: what was found.
        source: the log's name.
    """
    if not report.explained:
        yield from _nothing_fits(report, source)
        return
    for number, found in enumerate(report.explained[:_MAX_FAILURES]):
        if number:
            yield ""
        yield from explained_lines(found)
    left = len(report.explained) - _MAX_FAILURES
    if left > 0:
        yield ""
        yield f"and {left} more of this kind: --json lists all of them"
    for event in report.unknown[:_MAX_FAILURES]:
        yield ""
        yield f"not explained: {_failure(event)}"


def explained_lines(found: Explained) -> Iterator[str]:
    """Yield the lines about one failure: its causes, most likely first."""
    for number, cause in enumerate(found.causes[:_MAX_CAUSES]):
        if number:
            yield ""
        yield from cause_lines(cause, prefix="or: " if number else "", ranks=found.ranks)


def cause_lines(cause: Cause, *, prefix: str = "", ranks: tuple[int, ...] = ()) -> Iterator[str]:
    """Yield one cause: what, where, why, do."""
    yield f"{prefix}{escape(cause.what, 400)}{f'  [{cause.code}]' if cause.code else ''}"
    if ranks:
        yield f"  ranks   {_ranges(ranks)}"
    if cause.where:
        yield f"  where   {escape(cause.where, 300)}"
    if cause.why:
        yield from _wrapped("why", cause.why)
    for number, line in enumerate(chain.from_iterable(fix.splitlines() for fix in cause.fix)):
        yield f"  {'do' if not number else '':<8}{escape(line, 2000)}"
    if cause.code:  # an error of rekindle itself may have no page
        yield f"  more    rekindle explain {cause.code}"


def report_json(report: Report) -> dict[str, object]:
    """Return a report as the contract of ``--json`` has it."""
    return {
        "causes": [_cause_json(cause, found) for found in report.explained for cause in found.causes],
        "unknown": [
            {"raised": event.raised, "message": event.message[:2000], "line": event.line, "where": _place(event)}
            for event in report.unknown
        ],
        "lines": report.lines,
    }


def _cause_json(cause: Cause, found: Explained) -> dict[str, object]:
    return {
        "code": cause.code,
        "name": cause.name,
        "what": cause.what,
        "why": cause.why,
        "fix": list(cause.fix),
        "where": cause.where,
        "likelihood": cause.likelihood,
        "raised": found.event.raised,
        "line": found.event.line,
        "ranks": list(found.ranks),
    }


def _nothing_fits(report: Report, source: str) -> Iterator[str]:
    from rekindle.explain.catalogue import entry_names  # noqa: PLC0415 - counts files, only when nothing fits

    yield f"{escape(source) + ': ' if source else ''}no error that rekindle knows"
    found = (
        f"{report.failures} {'failure' if report.failures == 1 else 'failures'}" if report.failures else "no traceback"
    )
    lines = "1 line" if report.lines == 1 else f"{report.lines:,} lines"
    yield f"  looked  {lines}, {found}, {len(entry_names())} known errors"
    for event in report.unknown[:_MAX_FAILURES]:
        yield f"  found   {_failure(event)}"
    yield "  do      rekindle explain --list     shows every error that is known"


def _failure(event: Event) -> str:
    first = event.message.split("\n", 1)[0]
    said = (
        f"{event.raised}: {first}" if event.raised and first else event.raised or first or "a traceback without its end"
    )
    place = _place(event)
    rank = f", rank {event.rank}" if event.rank is not None else ""
    return f"{escape(said)}{'  at ' + escape(place) if place else ''}{rank}"


def _place(event: Event) -> str:
    return str(event.user_frame or "")


def _ranges(ranks: Iterable[int]) -> str:
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and parts[-1][1] == rank - 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _wrapped(label: str, text: str) -> Iterator[str]:
    """Wrap prose; commands and code are never wrapped."""
    line = f"  {label:<8}"
    start = len(line)
    for word in escape(" ".join(text.split()), 2000).split(" "):
        if len(line) > start and len(line) + len(word) + 1 > _WIDTH:
            yield line
            line, start = _INDENT, len(_INDENT)
        line += word if len(line) == start else f" {word}"
    yield line
