"""What the user's own lines say about the loader that failed, and whether its workers start the script again."""

from __future__ import annotations

import linecache
import re
import sys

from rekindle.explain.event import Event

__all__ = ["is_starting_twice", "loader_call", "start_method"]

_ARGUMENT = re.compile(
    r"\b(num_workers|prefetch_factor|batch_size|multiprocessing_context|persistent_workers)\s*=\s*([\w.]+|[\"']\w+[\"'])"
)
_TWICE = ("finished its bootstrapping phase", "freeze_support()")


def loader_call(event: Event) -> dict[str, str]:
    """Return the arguments of a loader that the user's lines show or that frames of torch held, as text."""
    found: dict[str, str] = {}
    for frame in event.frames:
        if frame.is_users:
            found.update((name, value.strip("\"'")) for name, value in _ARGUMENT.findall(frame.code))
    for live in event.live.frames if event.live else ():
        if not live.frame.is_users and "dataloader" in live.frame.path:
            found.update(
                {name: str(live.plain[name]) for name in ("num_workers", "prefetch_factor") if name in live.plain}
            )
    return found


def start_method(event: Event) -> str:
    """Return how workers are started: from the user's line, or live from this process; empty where it is unknown."""
    said = loader_call(event).get("multiprocessing_context", "")
    if said:
        return said
    module = sys.modules.get("multiprocessing") if event.live else None
    return str(module.get_start_method()) if module is not None else ""


def is_starting_twice(event: Event) -> bool:
    """Whether a worker ended because it ran the main script again, which starts workers at its top level."""
    if any(words in event.message or words in event.before for words in _TWICE):
        return True
    if event.live is None or "exit code 1" not in event.message or start_method(event) == "fork":
        return False
    first = next((held for held in event.live.frames if held.frame.is_users), None)
    if first is None or first.frame.function != "<module>":
        return False
    lines = linecache.getlines(first.file)
    return bool(lines) and not any("__main__" in line for line in lines)
