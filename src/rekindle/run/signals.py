"""Signals that ask a run to leave: noted at once, obeyed where the state is whole.

SIGTERM and SIGUSR1 come from schedulers, SIGINT from Ctrl-C. The first one is noted; the run saves at its next boundary
and leaves with a code of its own: 75 ("try again later", EX_TEMPFAIL of sysexits.h) for a scheduler to requeue on, 130
for Ctrl-C. A second Ctrl-C leaves at once, without saving.

While the run only waits (for a batch, or in an evaluation), a boundary may be far away although the state is whole. The
run then says that it may be interrupted, and the handler raises `Leaving` right where it waits.

Behind the last batch of an epoch the run had better finish the epoch's body: that may use what the loop over batches
computed, and a life that begins behind the loop does not have it. There a signal waits for `PATIENCE_S` seconds, and
then interrupts after all: a scheduler waits no longer than that for ever.

Law: a handler never saves; it notes, and at most raises where it was told that it may.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["CTRL_C_CODE", "REQUEUE_CODE", "Leaving", "SignalWatch"]

REQUEUE_CODE = 75
CTRL_C_CODE = 130
PATIENCE_S = 10.0

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")


class Leaving(BaseException):
    """Raised by a handler where the run waits; never seen outside `rekindle.run`."""


class SignalWatch:
    """The run's handlers, installed from `install` to `close`; elsewhere than in the main thread there are none.

    Attributes:
        requested: the signal that asked the run to leave; None while none did.
        interruptible: when it may be interrupted right where it is: False, True, or a function that tells.
        patient: whether, where the run may be interrupted now, it should not be yet: the body of an epoch is near its
            end.
        together: among several processes, what asks them all to leave at one boundary; `requested` is then set when
            that boundary is reached, and nobody is interrupted before.
    """

    def __init__(self) -> None:
        """Install nothing yet."""
        self.requested: signal.Signals | None = None
        self.interruptible: bool | Callable[[], bool] = False
        self.patient = False
        self.together: Callable[[int], object] | None = None
        self._asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._pid = 0
        self._held_since: float | None = None
        self._reminder: threading.Timer | None = None

    @property
    def asked(self) -> signal.Signals | None:
        """The signal that all processes were asked to leave by; None while none was."""
        return self._asked

    @property
    def installed(self) -> bool:
        """Whether the handlers are in place."""
        return bool(self._before)

    def install(self) -> None:
        """Put the handlers in place; those that were there come back with `close`."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._pid = os.getpid()
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is None:
                continue
            before = signal.getsignal(number)
            # Ignored on purpose (nohup, a background job of a shell), or not Python's to restore: left alone.
            if before is signal.SIG_IGN or before is None:
                continue
            signal.signal(number, self._note)
            self._before[number] = before

    def close(self) -> None:
        """Put back the handlers that were there before."""
        for number, before in self._before.items():
            with contextlib.suppress(ValueError):  # closed from another thread: they stay until the process ends
                if signal.getsignal(number) == self._note:
                    signal.signal(number, before)
        self._before = {}
        self.interruptible = False
        if self._reminder is not None:
            self._reminder.cancel()

    def hold(self) -> bool:
        """Whether a signal that was noted waits for the end of the epoch's body; it interrupts when that takes long.

        Several processes have to leave at one place, so none of them is interrupted.
        """
        if not self.patient or self.requested is None:
            return False
        if self.together is not None:
            return True
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
            self._reminder = threading.Timer(PATIENCE_S, self._remind, [self.requested])
            self._reminder.daemon = True
            self._reminder.start()
        return now - self._held_since < PATIENCE_S

    def _remind(self, number: signal.Signals) -> None:
        main = threading.main_thread().ident
        if not self._before or main is None or os.getpid() != self._pid:
            return
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, number)  # wakes it from whatever it waits for
        else:
            _thread.interrupt_main(number)

    @property
    def exit_code(self) -> int:
        """The code to leave with."""
        return CTRL_C_CODE if self.requested == signal.SIGINT else REQUEUE_CODE

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker that was forked a moment ago
            return
        if signal.SIGINT in {self.requested, self._asked} and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.together is not None:
            self.ask_all(signal.Signals(number))
            return
        first = self.requested is None
        # Ctrl-C after a scheduler's signal is the first Ctrl-C.
        self.requested = signal.Signals(number)
        if first:
            _say(self.requested)
        may = self.interruptible
        if may is not False and self.hold():
            return
        if may if isinstance(may, bool) else may():
            self.interruptible = False
            raise Leaving

    def ask_all(self, number: signal.Signals) -> None:
        """Have all processes of the run leave at one boundary; asking again changes only what a Ctrl-C means."""
        first, self._asked = self._asked is None, number
        if first and self.together is not None:
            _say(number)
            self.together(int(number))


def _say(number: signal.Signals) -> None:
    if sys.stderr is None:  # it was closed, and its number may be that of any file by now
        return
    if number == signal.SIGINT:
        text = "Ctrl-C: saving at the next boundary, then leaving; once more leaves at once without saving"
    else:
        text = f"{number.name}: saving at the next boundary, then leaving with code {REQUEUE_CODE}"
    with contextlib.suppress(OSError):
        os.write(2, f"\nrekindle: {text}\n".encode())  # unbuffered: print() may be what was interrupted
