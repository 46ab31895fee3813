"""The handlers: they note, and raise only where they may."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from rekindle.run.signals import Leaving, SignalWatch


@pytest.fixture
def watch():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    watch = SignalWatch()
    watch.install()
    yield watch
    watch.close()
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_has_its_code(watch, number, code):
    os.kill(os.getpid(), number)
    assert (watch.requested, watch.exit_code) == (number, code)


def test_where_it_may_a_signal_interrupts(watch):
    watch.interruptible = lambda: False
    os.kill(os.getpid(), signal.SIGTERM)
    watch.interruptible = True
    with pytest.raises(Leaving):
        os.kill(os.getpid(), signal.SIGTERM)
    assert watch.interruptible is False


def test_only_the_second_ctrl_c_raises(watch):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_is_ignored_on_purpose_stays_ignored():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        watch = SignalWatch()
        watch.install()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert watch.requested is None
        watch.close()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_in_another_thread_nothing_is_installed():
    watch = SignalWatch()
    thread = threading.Thread(target=watch.install)
    thread.start()
    thread.join()
    assert not watch.installed


def test_a_handler_that_somebody_put_on_top_stays(watch):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    watch.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_with_stderr_closed_nothing_is_written_to_its_number(watch, monkeypatch, capfd):
    """After `2>&-` the number 2 is that of the first file that is opened: the run's own lock."""
    monkeypatch.setattr(sys, "stderr", None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert watch.requested == signal.SIGTERM
    assert capfd.readouterr().err == ""
