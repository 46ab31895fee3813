"""rekindle's own errors in a log: they say themselves what happened, why and what to do, and are told as they stand.

Law: no entry is asked about such an error, and nothing is added to it; without its three parts it is left to others.
The form is that of `rekindle.errors.RekindleError`: a line, ``  why     ...``, ``  do      ...``, a code in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

__all__ = ["LOST_RANK", "own_cause", "own_reports"]

LOST_RANK = (  # what a run says on the ranks that are whole when another one ended
    r"rank \d+ of \d+ is gone: |the other ranks did not come within \d+ s"
)
_CODE = re.compile(r"\s{1,4}\[(?P<code>RK-[A-Z]+-\d\d)\]$")
_PART = re.compile(r" {2}(?P<part>why|do) {5,6}(?P<text>\S.*)")
_GOES_ON = " " * 10
_MAX_REPORTS = 100


def own_cause(event: Event) -> Cause | None:
    """Return what an error of rekindle says of itself as a cause; None for all other errors.

    Args:
        event: a failure whose `raised` names the module, as tracebacks print it: ``rekindle.errors.RunError``.
    """
    if not event.raised.startswith("rekindle."):
        return None
    first, *rest = event.message.split("\n")
    parts: dict[str, list[str]] = {"why": [], "do": []}
    last = ""
    for line in rest:
        found = _PART.match(line)
        if found:
            last = found["part"]
            parts[last].append(found["text"])
        elif last and line.startswith(_GOES_ON):
            parts[last].append(line.strip())
        elif line.strip():
            last = ""
    if not (parts["why"] or parts["do"]):
        return None
    code = _CODE.search(first)
    return Cause(
        code["code"] if code else "",
        re.sub(r"(?<=[a-z])(?=[A-Z])", "-", event.kind).lower(),
        what=_CODE.sub("", first).strip(),
        why=" ".join(parts["why"]),
        fix=tuple(parts["do"]),
        likelihood="certain",
    )


def own_reports(text: str) -> Iterator[Event]:
    """Yield what the command line said of its errors, which print no traceback, as events; explanations are none.

    Args:
        text: a log without colours.
    """
    lines: list[str] | None = None
    if "\n  why     " in text or "\n  do      " in text:
        lines = text.split("\n")
    used = -1
    count = 0
    for number, line in enumerate(lines or ()):
        if number <= used or number == 0 or not _PART.match(line) or not lines or not lines[number - 1].strip():
            continue
        end = number + 1
        while end < len(lines) and lines[end].startswith("  ") and end - number < 40:
            end += 1
        used = end - 1
        block = lines[number - 1 : end]
        head = block[0].removeprefix("rekindle: ")
        if any(part.startswith("  more ") for part in block) or head.startswith(" "):
            continue  # what `rekindle explain` itself said
        count += 1
        if count > _MAX_REPORTS:
            return
        yield Event("rekindle.errors.RekindleError", "\n".join([head, *block[1:]]), line=number)
