"""The user's own source around the line that failed, read only where the exception is alive: the file is then at hand."""

from __future__ import annotations

import ast
import linecache
import re

from rekindle.explain.event import Event

__all__ = ["last_line_with", "lines_before"]

_MAX_LINES = 5_000


def lines_before(event: Event) -> list[tuple[int, str]]:
    """Return the numbered lines of the function (at the top of a file: of the file) up to the user's line.

    Empty from text, for a file that cannot be read, and for one of more than 5,000 lines.
    """
    held = event.live.user_frame if event.live else None
    if held is None or not held.file:
        return []
    frame = held.frame
    linecache.checkcache(held.file)
    lines = linecache.getlines(held.file)
    if not 0 < frame.line <= len(lines) <= _MAX_LINES:
        return []
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    first = 1
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno <= frame.line <= (
            node.end_lineno or 0
        ):
            first = max(first, node.lineno)
    return [(number, lines[number - 1].strip()) for number in range(first, frame.line + 1)]


def last_line_with(event: Event, pattern: str) -> str:
    """Return the last line in front of the failure that a pattern is found in: ``line 7: with torch.no_grad():``."""
    compiled = re.compile(pattern)
    for number, code in reversed(lines_before(event)):
        if compiled.search(code.partition("#")[0]):
            return f"line {number}: {code[:120]}"
    return ""
