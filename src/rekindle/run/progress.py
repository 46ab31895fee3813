"""Progress of a run on stderr: one live line on a terminal, a plain line now and then everywhere else.

Law: nothing here is ever written to stdout, nothing runs in a thread (data-loader workers are forked from this
process, and a fork in the middle of a thread's lock hangs), and a display that cannot be written is given up quietly:
a closed terminal must not end a training.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

__all__ = ["ProgressDisplay"]

_RATE_WINDOW_S = 20.0  # the rate is that of the last seconds, so that it follows a slower evaluation or another load
_PLAIN_GAP_S = 0.5  # a log file gets a line per epoch, but no more than two a second


@dataclass(slots=True)
class _Position:
    epoch: int = 0
    epochs: int | None = None
    batch: int = 0
    batches: int | None = None
    steps_done: int = 0
    values: dict[str, Any] = field(default_factory=dict)


class ProgressDisplay:
    """Where a run is: epoch, batch, values, rate and time left. Holds the live line open until `close`.

    Args:
        total_epochs: number of epochs, where it is known from the start.
        stream: where to write; stderr by default, and nowhere where that is closed. A stream that is no terminal (a log
            file, a notebook) gets plain lines: one per epoch, and one every `interval_s` within a long epoch.
        interval_s: seconds between plain lines within an epoch.
        clock: seconds that never go back; tests give their own.
    """

    def __init__(
        self,
        total_epochs: int | None = None,
        *,
        stream: TextIO | None = None,
        interval_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show nothing yet."""
        self._stream = sys.stderr if stream is None else stream
        self._interval_s = interval_s
        self._clock = clock
        self._at = _Position(epochs=total_epochs)
        self._seen: deque[tuple[float, int]] = deque()  # (time, batches passed in this life)
        self._passed = 0
        self._started = False
        self._last_line_s = clock()
        self._line_is_due = False
        self._given_up = self._stream is None  # closed before Python started; `print` would take it for stdout
        self._live: Any = None
        # A notebook's stream says it is no terminal, and what some loggers put in its place cannot be asked.
        asks = getattr(self._stream, "isatty", None)
        self._wants_live = callable(asks) and asks() and os.environ.get("TERM") != "dumb"

    def update(
        self,
        *,
        epoch: int,
        epochs: int | None = None,
        batch: int = 0,
        batches: int | None = None,
        steps_done: int = 0,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Show where the run is.

        Args:
            epoch: the epoch in progress, counted from 0.
            epochs: how many there will be; None where nobody knows.
            batch: batches of this epoch that were trained on.
            batches: how many the epoch has; None where nobody knows.
            steps_done: optimizer updates since the run began, in all its lives.
            values: what else to show, by name: numbers or tensors of one element. They are read only when a line is
                written, and a name that holds ``accuracy`` is shown in per cent.
        """
        if self._started and epoch != self._at.epoch:
            self._finish_epoch()
        old = self._at if self._started and epoch == self._at.epoch else _Position(batch=0 if self._started else batch)
        self._passed += max(0, batch - old.batch)
        self._started = True
        known = self._at.epochs if epochs is None else epochs
        shown = self._at.values if values is None else dict(values)
        self._at = _Position(epoch, known, batch, batches, steps_done, shown)
        self._line_is_due = True
        self._measure()
        if self._wants_live:
            self._attempt(self._draw)
        elif self._clock() - self._last_line_s >= self._interval_s:
            self._write_line()

    def note(self, text: str) -> None:
        """Write a line of its own, above the live line."""
        self._attempt(lambda: self._print(text))

    def close(self) -> None:
        """End the live line and leave its last state as a plain line; closing twice is harmless."""
        self._attempt(self._stop_live)
        if self._line_is_due:
            self._write_line()

    def _finish_epoch(self) -> None:
        left_in_epoch = (self._at.batches or 0) - self._at.batch
        if left_in_epoch > 0:  # the last batches went by between two updates
            self._passed += left_in_epoch
            self._at.batch += left_in_epoch
        if not self._wants_live and self._clock() - self._last_line_s >= _PLAIN_GAP_S:
            self._write_line()

    def _write_line(self) -> None:
        self._line_is_due = False
        self._last_line_s = self._clock()
        self._attempt(lambda: self._print("  ".join(self._parts())))

    def _measure(self) -> None:
        now = self._clock()
        self._seen.append((now, self._passed))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_WINDOW_S:
            self._seen.popleft()

    def _rate(self) -> float:
        """Batches per second of the last seconds; 0 where it is not known yet."""
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def _left_s(self) -> float | None:
        at, rate = self._at, self._rate()
        if at.epochs is None or at.batches is None or rate <= 0:
            return None
        return max(0.0, ((at.epochs - at.epoch) * at.batches - at.batch) / rate)

    def _parts(self) -> list[str]:
        at = self._at
        parts = [
            f"epoch {at.epoch + 1}" + (f"/{at.epochs}" if at.epochs else ""),
            f"batch {at.batch}" + (f"/{at.batches}" if at.batches else ""),
        ]
        parts += [f"{name} {_number(name, value)}" for name, value in at.values.items()]
        rate, left_s = self._rate(), self._left_s()
        if rate > 0:
            parts.append(f"{rate:.0f} batches/s" if rate >= 10 else f"{rate:.2g} batches/s")
        if left_s is not None:
            parts.append(f"{_duration(left_s)} left")
        return parts

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def _draw(self) -> None:
        if self._live is None:
            self._start_live()
            if self._live is None:
                return
        self._live.update(self._row(), refresh=True)

    def _start_live(self) -> None:
        try:
            from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
            from rich.live import Live  # noqa: PLC0415
        except ImportError:
            self._wants_live = False
            return
        console = Console(file=self._stream, force_terminal=True)
        # No refreshing thread; stdout stays the script's own.
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live.start()

    def _row(self) -> object:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415 - only a terminal needs it
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        first, *rest = self._parts()
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True)
        row.add_column(no_wrap=True)
        row.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=self._at.batches, completed=self._at.batch, width=16, pulse=not self._at.batches)
        row.add_row(Text(first, style="bold"), bar, Text("  ".join(rest)))
        return row

    def _stop_live(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._given_up:
            return
        try:
            action()
        except (OSError, ValueError):  # closed, full, gone with its terminal
            self._given_up = True


def _number(name: str, value: object) -> str:
    try:
        number = float(value)  # type: ignore[arg-type] # numbers and tensors of one element; others fail below
    except (TypeError, ValueError, RuntimeError):
        return str(value)
    return f"{100 * number:.1f} %" if "accuracy" in name else f"{number:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
