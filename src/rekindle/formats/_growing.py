"""Run a pickle program whose length nobody states: read a piece, and a larger one where the program goes on.

A torch stream is a row of pickles with gigabytes of storage behind them; only the opcode STOP says where one ends. The
window grows eightfold, so that little is read of a file with short programs and a long one is run about twice, and it
never grows over `Limits.pickle_bytes`. Where the caller knows what follows a program, that is looked for first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding
from rekindle.formats._nested import nested_reader
from rekindle.limits import Limits
from rekindle.source import Readable
from rekindle.tree import Value

if TYPE_CHECKING:
    from rekindle.unpickling.machine import Outcome

__all__ = ["ran_out", "run_growing"]

_FIRST_WINDOW = 512 * 1024

State = TypeVar("State")


def run_growing(
    source: Readable,
    at: int,
    limits: Limits,
    fresh: Callable[[], tuple[State, Callable[[Value], Value] | None]],
    follows: bytes = b"",
    depth: int = 0,
) -> tuple[State, Outcome]:
    """Run the program that starts at byte `at` and return (state, outcome); `outcome.end` counts from the file's start.

    Args:
        source: the file.
        at: first byte of the program.
        limits: caps.
        fresh: makes (state, persistent) for one attempt; called again when a larger window is tried.
        follows: what stands where the program ends, its last opcode first; a guess for the size of the window.
        depth: how many streams the program is inside of.

    Raises:
        UnreadableFile: the program is broken, or the file ends inside it.
        LimitExceeded: it is longer than `limits.pickle_bytes`.
    """
    from dataclasses import replace  # noqa: PLC0415

    from rekindle.unpickling.machine import run_program  # noqa: PLC0415 - only here, so that sniffing stays cheap

    window = _guess(source, at, limits, follows) if follows else _FIRST_WINDOW
    rest = max(source.size - at, 0)
    while True:
        length = min(window, rest, limits.pickle_bytes)
        state, persistent = fresh()
        found: list[Finding] = []
        nested = nested_reader(limits, found, depth)
        try:
            outcome = run_program(source.read(at, length), persistent=persistent, nested=nested, limits=limits)
        except LimitExceeded:
            raise
        except UnreadableFile as error:
            if length == rest or not ran_out(error):
                raise
            if length == limits.pickle_bytes:
                raise LimitExceeded(
                    f"{source.path}: the pickle at byte {at:,} has no end within {length:,} bytes",
                    why="reading is bounded by Limits.pickle_bytes",
                    do="raise Limits.pickle_bytes if you trust this file",
                ) from error
            window = max(window, _FIRST_WINDOW // 8) * 8
            continue
        return state, replace(outcome, end=at + outcome.end, findings=[*outcome.findings, *found])


def ran_out(error: UnreadableFile) -> bool:
    """Tell whether a program failed since its bytes ended, by the words of `rekindle.unpickling.program.explain`."""
    return "without STOP" in error.what or "ends inside it" in error.what


def _guess(source: Readable, at: int, limits: Limits, follows: bytes) -> int:
    """Return how many bytes there are to the first place where the program may end."""
    limit = min(source.size, at + limits.pickle_bytes)
    start = at
    while start < limit:
        piece = source.read(start, min(_FIRST_WINDOW, limit - start))
        found = piece.find(follows)
        if found >= 0:
            return start + found + 1 - at
        if start + len(piece) >= limit:
            break
        start += len(piece) - len(follows) + 1
    return _FIRST_WINDOW
