"""One piece of work at a time in a thread of its own: how a snapshot is written while the training goes on.

The thread lives as long as its work. It takes no lock that anybody else waits for, prints nothing, and signals that are
meant for the run never reach it, so a data loader's workers may be forked in the middle of it: in the child it is
simply not there. What went wrong in it is raised where `result` is asked for.

Law: a process that ends in good order waits for what is under way; one that is killed leaves a folder that nobody takes
for a snapshot.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from rekindle.errors import NotWritten
from rekindle.run.workers import SHIELDED_SIGNALS

__all__ = ["WAIT_S", "Background"]

WAIT_S = 600.0
_SILENT_S = 2.0

_Result = TypeVar("_Result")


class Background(Generic[_Result]):
    """Work that is done in a thread of its own.

    Args:
        work: called once, there.
        what: what it makes, in words such as ``the snapshot of step 400``.

    Attributes:
        begun: whether it was started, whatever `start` raised.
    """

    def __init__(self, work: Callable[[], _Result], what: str) -> None:
        """Nothing is begun before `start`."""
        self.what = what
        self._work = work
        self._results: list[_Result] = []
        self._error: BaseException | None = None
        self._pid = os.getpid()
        self.begun = False
        # Daemonic, since Python would wait for any other before the exit functions, without an end and without a word.
        self._thread = threading.Thread(target=self._run, name="rekindle-writer", daemon=True)

    def start(self) -> None:
        """Begin; to be called once. A handler of SIGCHLD may raise before it has `begun`, or after; not between."""
        with _children_unheard(), _signals_held_back():
            self.begun = True
            _under_way.add(self)
            try:
                self._thread.start()
            except RuntimeError:  # the system has none left, or the interpreter is on its way out: done here and now
                self._run()

    @property
    def done(self) -> bool:
        """Whether it came to its end, good or bad."""
        return not self._thread.is_alive()

    @property
    def is_ours(self) -> bool:
        """Whether it was started by this process, and not by the one that this one was forked from."""
        return self._pid == os.getpid()

    def wait(self, say: Callable[[str], object], limit_s: float | None = None) -> None:
        """Wait for the end of it, and say so when that takes long.

        Raises:
            NotWritten: it has not come after `limit_s` seconds (ten minutes where none are given).
        """
        limit = WAIT_S if limit_s is None else limit_s
        began = time.monotonic()
        self._thread.join(min(_SILENT_S, limit))
        if self.done:
            return
        say(f"waiting for {self.what} to reach the disk")
        self._thread.join(max(0.0, limit - (time.monotonic() - began)))
        if not self.done:
            _under_way.discard(self)  # once is enough
            raise NotWritten(
                f"{self.what} is not on the disk after {limit:,.0f} seconds",
                why="the disk is very slow, or does not answer",
                do="look at the disk or the network; the same command goes on from the newest snapshot that is whole",
            )

    def result(self) -> _Result:
        """Return what the work returned, or raise what it raised; only after its end."""
        _under_way.discard(self)
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - it is raised again in `result`
            self._error = error
        finally:
            del self._work  # and the memory that it holds

    def say_failure(self, say: Callable[[str], object]) -> None:
        """Say what went wrong, where nobody is left to raise it to."""
        _under_way.discard(self)
        if self._error is not None:
            say(f"{self.what} could not be written: {self._error}")


@contextlib.contextmanager
def _children_unheard() -> Iterator[None]:
    """Put off the handler of SIGCHLD: torch's raises when a data loader's worker has died, wherever the main thread is.

    In the middle of the start of a thread that would look as if there were none to be had. Blocking the signal is not
    enough: where another thread gets it, the handler runs in this one all the same.
    """
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
        if came:
            signal.raise_signal(signal.SIGCHLD)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Have a thread that is started here never get the run's signals, which have to wake the main thread."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_under_way: set[Background[Any]] = set()


def _finish_at_exit() -> None:
    """Wait for what nobody waited for: a script that ends without `run.close()`, or by an exception."""
    for work in list(_under_way):
        try:
            work.wait(_say)
        except NotWritten as error:
            _say(str(error))
        else:
            work.say_failure(_say)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"rekindle: {text}", file=sys.stderr, flush=True)  # noqa: T201 - nobody else is left to speak


atexit.register(_finish_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_under_way.clear)
