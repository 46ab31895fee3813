"""Work that several threads share: done whoever does it, and by nobody any more at the end."""

from __future__ import annotations

import threading
import time

import pytest

from rekindle.store.crew import Crew


def test_results_come_in_order_whoever_did_them():
    jobs = [lambda number=number: number for number in range(200)]
    for threads in (0, 1, 3):
        with Crew(jobs, threads) as crew:
            assert crew.results() == list(range(200))


def test_whoever_asks_does_what_nobody_has_begun():
    mine = threading.get_ident()
    with Crew([lambda: str(threading.get_ident())] * 3, threads=0) as crew:
        assert [crew.result(number) for number in (2, 0, 1)] == [str(mine)] * 3


def test_without_a_thread_to_be_had_it_ends_as_well(monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with Crew([lambda: "a", lambda: "b"], threads=2) as crew:
        assert [crew.result(0), crew.result(1)] == ["a", "b"]


def test_an_error_is_raised_where_its_result_is_asked_for_and_nowhere_else():
    def fails():
        raise OSError("no")

    with Crew([lambda: "a", fails], threads=1) as crew:
        assert crew.result(0) == "a"
        with pytest.raises(OSError, match="no"):
            crew.result(1)


def test_nobody_is_at_work_after_the_block():
    began, go_on, done = threading.Event(), threading.Event(), []

    def slow():
        began.set()
        go_on.wait(10)
        done.append(1)
        return "a"

    with Crew([slow, lambda: done.append(2) or "b"], threads=1):
        assert began.wait(10)
        go_on.set()
    assert done == [1]  # the one that was begun came to its end, the other was dropped


def test_a_start_that_a_signals_handler_interrupts_leaves_nobody_at_work(monkeypatch):
    """Torch's handler of SIGCHLD raises where the main thread happens to be, when a data loader's worker has died."""
    start, began, done = threading.Thread.start, threading.Event(), []

    def interrupted(thread):
        start(thread)
        assert began.wait(10)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def slow():
        began.set()
        time.sleep(0.1)
        done.append(1)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(RuntimeError, match="is killed by signal"), Crew([slow, slow], threads=2):
        raise AssertionError("it was interrupted")
    assert done == [1]
    time.sleep(0.15)
    assert done == [1]
