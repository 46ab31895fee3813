"""Work in a thread of its own: waited for, never heard of by signals, its errors raised where its result is."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from rekindle.errors import RunError
from rekindle.run import writer
from rekindle.run.writer import Background

PATIENCE_S = 30.0


def begun(work, what):
    background = Background(work, what)
    background.start()
    return background


def finished(work):
    work.wait(lambda _: None, PATIENCE_S)
    return work


def test_what_it_made_is_its_result():
    assert finished(begun(lambda: 42, "an answer")).result() == 42


def test_what_it_raised_is_raised_where_the_result_is_asked_for():
    def fail():
        raise KeyError("deep inside")

    with pytest.raises(KeyError, match="deep inside"):
        finished(begun(fail, "an answer")).result()


def test_signals_of_the_run_are_blocked_in_it_and_not_in_the_main_thread():
    def blocked():
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

    before = blocked()
    assert {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT} <= finished(begun(blocked, "a mask")).result()
    assert blocked() == before


def test_waiting_long_is_said_and_has_an_end(monkeypatch):
    monkeypatch.setattr(writer, "_SILENT_S", 0.01)
    gate, said = threading.Event(), []
    work = begun(gate.wait, "the snapshot of step 7")
    with pytest.raises(RunError, match=r"the snapshot of step 7 is not on the disk after 0 seconds") as caught:
        work.wait(said.append, 0.05)
    assert said == ["waiting for the snapshot of step 7 to reach the disk"]
    assert "the disk is very slow" in caught.value.why
    assert not work.done
    gate.set()
    assert finished(work).result() is True


def test_where_no_thread_can_be_had_it_is_done_at_once(monkeypatch):
    def refuse(_self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    work = begun(threading.current_thread, "a name")
    assert work.done
    assert work.result() is threading.main_thread()


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="there is no SIGCHLD here")
def test_a_handler_that_raises_while_it_starts_does_not_start_it_twice(monkeypatch):
    """Torch's handler of SIGCHLD raises where the main thread happens to be, when a data loader's worker has died."""
    calls, start = [], threading.Thread.start

    def interrupted(thread):
        os.kill(os.getpid(), signal.SIGCHLD)
        start(thread)

    def worker_died(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    before = signal.signal(signal.SIGCHLD, worker_died)
    try:
        work = Background(lambda: calls.append(1), "the snapshot of step 7")
        with pytest.raises(RuntimeError, match="is killed by signal"):
            work.start()
        assert signal.getsignal(signal.SIGCHLD) is worker_died
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert work.begun
    finished(work).result()
    assert calls == [1]


def test_nothing_is_left_to_wait_for_at_the_exit_once_the_result_was_taken():
    work = finished(begun(lambda: None, "nothing"))
    assert work in writer._under_way
    work.result()
    assert work not in writer._under_way
