"""One line on stderr that says how far a command is, once it has taken a second; nothing where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["ProgressLine", "megabytes_a_second", "progress_line"]


class ProgressLine:
    """The line. Called with what a verb reports: (done, total), or one fact; it goes away when all is done.

    Args:
        words: (seconds so far, *facts) -> the text.
    """

    def __init__(self, words: Callable[..., str]) -> None:
        """Start the clock."""
        self._words = words
        self._start = self._last = time.monotonic()

    def __call__(self, *facts: Any) -> None:
        """Say how far it is, at most ten times a second."""
        now = time.monotonic()
        if len(facts) == 2 and facts[0] >= facts[1]:
            self.clear()
        elif now - self._start > 1 and now - self._last > 0.1:
            self._last = now
            print(f"\r\x1b[K  {self._words(now - self._start, *facts)}\r", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away, if there is one."""
        if self._last > self._start:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._last = self._start


def progress_line(words: Callable[..., str]) -> ProgressLine | None:
    """Return a line with these words, None where stderr is no terminal."""
    return ProgressLine(words) if sys.stderr.isatty() else None


def megabytes_a_second(seconds: float, done: int, total: int) -> str:
    """Say how much of `total` bytes is done, and how fast."""
    return f"{100 * done // max(total, 1)} %  {done / seconds / 1e6:,.0f} MB/s"
