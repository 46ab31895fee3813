"""Pieces of work that several threads share for a moment.

Each piece is one long call that lets go of the interpreter: a digest, a copy of memory.

Law: whoever waits for a result lends a hand. So the work is never slower than by one thread alone, and ends even where
the system has no thread left.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Crew", "spare_threads"]

_MOST_THREADS = 4  # memory and disk are the slower ones from here on, and a training wants its processors

_Result = TypeVar("_Result")


def spare_threads() -> int:
    """Return how many threads may work beside the one that is there: at least 1, at most 4."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, there - 1))


class Crew(Generic[_Result]):
    """Work that is being done until the end of a ``with`` block, and whose results can be asked for in it.

    Args:
        jobs: what returns each result; called once at most, from any thread, in about this order.
        threads: how many to start; 0 leaves it all to those who ask.
    """

    def __init__(self, jobs: Sequence[Callable[[], _Result]], threads: int) -> None:
        """Nothing is begun yet."""
        self._jobs = jobs
        self._left = deque(range(len(jobs)))
        self._found: dict[int, tuple[_Result] | BaseException] = {}
        self._news = threading.Condition()
        self._helpers = min(threads, len(jobs))
        self._busy = 0

    def __enter__(self) -> Crew[_Result]:
        """Start the threads."""
        try:
            for _ in range(self._helpers):
                threading.Thread(target=self._help, daemon=True).start()
        except RuntimeError as error:
            # None left, or the interpreter is on its way out. A handler of a signal may raise it as well: torch's does
            # when a data loader's worker dies.
            if "new thread" not in str(error):
                self._end()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Drop what nobody has begun, and wait for the rest: nobody touches the memory any more."""
        self._end()

    def results(self) -> list[_Result]:
        """Return the results of all jobs, in order, or raise what the first of them raised."""
        return [self.result(number) for number in range(len(self._jobs))]

    def result(self, number: int) -> _Result:
        """Return what a job returned, or raise what it raised; jobs that nobody has begun are done here meanwhile."""
        while number not in self._found:
            with self._news:
                if not self._left:
                    break
                mine = self._left.popleft()
            self._do(mine)
        with self._news:
            self._news.wait_for(lambda: number in self._found)
        found = self._found[number]
        if isinstance(found, BaseException):
            raise found
        return found[0]

    def _help(self) -> None:
        while True:
            with self._news:
                if not self._left:
                    return
                number = self._left.popleft()
                self._busy += 1
            self._do(number)
            with self._news:
                self._busy -= 1
                self._news.notify_all()

    def _do(self, number: int) -> None:
        found: tuple[_Result] | BaseException
        try:
            found = (self._jobs[number](),)
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            found = error
        with self._news:
            self._found[number] = found
            self._news.notify_all()

    def _end(self) -> None:
        # Threads are counted by their work and not joined: one whose start was interrupted is at work all the same.
        with self._news:
            self._left.clear()
            self._news.wait_for(lambda: not self._busy)
