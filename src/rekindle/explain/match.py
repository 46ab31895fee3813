"""An event and the catalogue: which entries fit, and what they say of it.

An entry is asked if one of its needles is in the event's text, its exception types include the event's (or the event
has none: a pasted line), and one of its patterns is found. Its causes come in the order of their likelihood; if one is
certain, the others are left out. No entry, no cause: nothing is ever the nearest page.

A fault in an entry must not cost the user the explanation of the others, nor in live use the traceback: `causes_of`
leaves such an entry out. `strict=True` lets it through, for the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

from rekindle.explain.catalogue import Entry, Heading, entry, headings
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

__all__ = ["causes_of", "facts_of", "fitting", "hidden", "mentioned", "place_of"]

_MAX_TEXT = 20_000  # of a message; the longest that torch prints lists the keys of a whole model
_MAX_LINE = 2_000  # of a line outside of tracebacks
_SECRET = re.compile(
    r"(://)[^\s/@'\"]{1,200}(?=@)"
    r"|((?:token|passw(?:or)?d|passwd|secret|api_?key|access_key|signature|credential)s?[\"']?\]?\s{0,3}[=:]\s{0,3}[rbf]?[\"']?)"
    r"[^\s\"'&,;)]{8,500}"
    r"|\b(?:hf_|sk-|ghp_|github_pat_|glpat-|xox[bp]-|AKIA|ASIA)[\w-]{12,200}",
    re.IGNORECASE,
)
_ORDER = {"certain": 0, "likely": 1, "possible": 2}


def causes_of(event: Event, *, among: Iterable[Heading] | None = None, strict: bool = False) -> list[Cause]:
    """Return the causes of an event, most likely first; empty where no entry fits.

    Args:
        event: what happened.
        among: the entries to ask; all by default.
        strict: let a fault inside an entry through instead of leaving the entry out.
    """
    found: list[Cause] = []
    for heading in fitting(event, among):
        try:
            module = entry(heading.module)
            facts = facts_of(module, event)
            if facts is not None:
                found += module.explain(event.with_facts(facts))
        except Exception:
            if strict:
                raise
    found.sort(key=lambda cause: _ORDER[cause.likelihood])
    if found and found[0].likelihood == "certain":
        found = [cause for cause in found if cause.likelihood == "certain"]
    where = place_of(event)
    return [_without_secrets(cause if cause.where else replace(cause, where=where)) for cause in found]


def fitting(event: Event, among: Iterable[Heading] | None = None) -> Iterator[Heading]:
    """Yield the headings whose needles and types fit; their patterns are not tried yet."""
    text, kind = event.text[:_MAX_TEXT], event.kind
    for heading in headings() if among is None else among:
        if kind and kind not in heading.raises and (heading.raises or not kind.endswith("Warning")):
            continue
        if any(needle in text for needle in heading.needles):
            yield heading


def mentioned(texts: Iterable[str]) -> list[Heading]:
    """Return the headings with a needle in one of many texts, which are searched as one."""
    whole = "\n".join(text[:_MAX_LINE] for text in texts)
    return [heading for heading in headings() if any(needle in whole for needle in heading.needles)]


def facts_of(module: Entry, event: Event) -> dict[str, str] | None:
    """Return the groups of the first pattern that is found in the event's text, or None."""
    text = event.text[:_MAX_TEXT]
    for pattern in module.PATTERNS:
        found = _compiled(pattern).search(text)
        if found:
            return {name: value or "" for name, value in found.groupdict().items()}
    return None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.MULTILINE)


def place_of(event: Event) -> str:
    """Return the user's own line, ``train.py:12  loss.backward()``; empty where the event does not tell."""
    frame = event.user_frame
    if frame is None:
        return ""
    return hidden(f"{frame}  {frame.code}".rstrip())


def hidden(text: str) -> str:
    """Return a text without what reads as a password or a token: in addresses, as an argument, by its known beginning.

    Example:
        >>> hidden("there is no https://ada:pa55@host/m.pt?token=abcdefgh12")
        'there is no https://***@host/m.pt?token=***'
    """
    return _SECRET.sub(lambda found: f"{found[1] or found[2] or ''}***", text)


def _without_secrets(cause: Cause) -> Cause:
    return replace(
        cause,
        what=hidden(cause.what),
        why=hidden(cause.why),
        fix=tuple(hidden(line) for line in cause.fix),
        where=hidden(cause.where),
    )
