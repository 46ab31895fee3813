"""What a run says to people: lines on stderr, and the progress display.

Law: one process of a run speaks, rank 0; nothing that goes wrong while speaking ends a training.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rekindle.run.places import Loop
    from rekindle.run.progress import ProgressDisplay

__all__ = ["Voice", "say_from_any_rank"]

_SHOW_EVERY_S = 0.1


class Voice:
    """The one place that speaks.

    Args:
        rank: of this process.
        progress: show progress; None for "on a terminal".

    Attributes:
        shows: whether progress is shown.
    """

    def __init__(self, rank: int, *, progress: bool | None) -> None:
        """Say nothing yet."""
        wanted = (sys.stderr is not None and sys.stderr.isatty()) if progress is None else progress
        self.shows = wanted and not rank
        self._rank = rank
        self._said: set[str] = set()
        self._display: ProgressDisplay | None = None
        self._values: dict[str, Any] = {}
        self._next_show = 0.0
        atexit.register(_close, weakref.ref(self))

    def note(self, text: str, *, once: bool = False) -> None:
        """Say something on stderr, above the progress display.

        Args:
            text: one line.
            once: leave it out if it was said before.
        """
        if self._rank or (once and text in self._said):
            return
        self._said.add(text)
        if self._display is not None:
            self._display.note(f"rekindle: {text}")
        else:
            _print(text)

    def display(self, epochs: int | None) -> ProgressDisplay:
        """Return the progress display of so many epochs, made when it is first asked for."""
        if self._display is None:
            from rekindle.run.progress import ProgressDisplay  # noqa: PLC0415 - only where it is shown

            self._display = ProgressDisplay(epochs)
        return self._display

    def keep(self, values: dict[str, Any]) -> None:
        """Have values stand in the display; they are read only when it is drawn."""
        self._values.update(values)

    def draw(self, epoch: int, epochs: int | None, loop: Loop | None, steps_done: int) -> None:
        """Show where the run is, ten times a second at most, and at the end of each loop."""
        now = time.monotonic()
        if now < self._next_show and not (loop is not None and loop.is_at_its_end):
            return
        self._next_show = now + _SHOW_EVERY_S
        self.display(epochs).update(
            epoch=epoch,
            epochs=epochs,
            batch=0 if loop is None else loop.delivered,
            batches=None if loop is None else loop.length,
            steps_done=steps_done,
            values=self._values,
        )

    def close(self) -> None:
        """Leave the terminal as it was; closing twice is harmless."""
        if self._display is not None:
            self._display.close()


def say_from_any_rank(text: str) -> None:
    """Say something about a rank that cannot speak itself."""
    _print(text)


def _print(text: str) -> None:
    if sys.stderr is None:  # it was closed; print() would take stdout instead
        return
    with contextlib.suppress(OSError, ValueError):  # a closed terminal must not end a training
        print(f"rekindle: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the one place that speaks


def _close(voice: weakref.ref[Voice]) -> None:
    """Leave the terminal as it was when the process ends with the display open."""
    alive = voice()
    if alive is not None:
        alive.close()
