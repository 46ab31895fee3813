"""Work that several threads share: done whoever does it, and by nobody any more at the end."""

from __future__ import annotations

import threading

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
    assert not any(thread.name.endswith("_work)") for thread in threading.enumerate())
