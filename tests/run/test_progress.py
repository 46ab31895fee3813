"""The progress display: what a terminal, a log file and a broken stream get to see."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

from rekindle.run.progress import ProgressDisplay


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_log_file_gets_one_line_per_epoch():
    stream, clock = io.StringIO(), Clock()
    display = ProgressDisplay(stream=stream, clock=clock)
    for epoch in range(3):
        for batch in range(1, 11):
            clock.now += 0.1
            display.update(epoch=epoch, epochs=3, batch=batch, batches=10, values={"loss": 0.5 / (epoch + 1)})
    display.close()
    assert [line.split("  ")[:3] for line in shown(stream)] == [
        ["epoch 1/3", "batch 10/10", "loss 0.5"],
        ["epoch 2/3", "batch 10/10", "loss 0.25"],
        ["epoch 3/3", "batch 10/10", "loss 0.1667"],
    ]


def test_rate_and_time_left_are_those_of_this_life():
    stream, clock = io.StringIO(), Clock()
    display = ProgressDisplay(stream=stream, clock=clock)
    for batch in range(41, 61):  # a resumed life: the first 40 batches were another life's
        display.update(epoch=1, epochs=4, batch=batch, batches=100, values={})
        clock.now += 0.05
    display.close()
    assert shown(stream) == ["epoch 2/4  batch 60/100  20 batches/s  0:12 left"]


def test_batches_that_passed_between_two_updates_count():
    stream, clock = io.StringIO(), Clock()
    display = ProgressDisplay(stream=stream, clock=clock)
    display.update(epoch=0, epochs=2, batch=10, batches=100)
    clock.now += 1
    display.update(epoch=1, epochs=2, batch=10, batches=100)
    display.close()
    assert shown(stream)[-1] == "epoch 2/2  batch 10/100  100 batches/s  0:01 left"


def test_a_long_epoch_says_something_every_interval():
    stream, clock = io.StringIO(), Clock()
    display = ProgressDisplay(stream=stream, clock=clock, interval_s=30)
    for batch in range(1, 101):
        clock.now += 1
        display.update(epoch=0, batch=batch)
    display.close()
    assert [line.split("  ")[1] for line in shown(stream)] == ["batch 30", "batch 60", "batch 90", "batch 100"]


def test_accuracies_are_per_cent_and_tensors_are_numbers():
    class OneElement:
        def __float__(self) -> float:
            return 0.25

    stream = io.StringIO()
    display = ProgressDisplay(stream=stream, clock=Clock())
    display.update(epoch=0, batch=1, values={"loss": OneElement(), "val_accuracy": 0.9722, "phase": "warm-up"})
    display.close()
    assert shown(stream) == ["epoch 1  batch 1  loss 0.25  val_accuracy 97.2 %  phase warm-up"]


def test_notes_stand_on_lines_of_their_own_and_closing_twice_is_harmless():
    stream = io.StringIO()
    display = ProgressDisplay(stream=stream, clock=Clock())
    display.note("saved step 12")
    display.close()
    display.close()
    assert shown(stream) == ["saved step 12"]


def test_a_stream_that_breaks_does_not_end_the_training():
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    display = ProgressDisplay(stream=Broken(), clock=Clock())
    display.note("nobody reads this")
    display.update(epoch=0, batch=1)
    display.close()


def test_with_stderr_closed_nothing_is_shown_and_stdout_stays_clean(monkeypatch, capsys):
    """`python train.py 2>&-`: Python has None in its place, and `print(file=None)` prints to stdout."""
    monkeypatch.setattr(sys, "stderr", None)
    display = ProgressDisplay(2)
    display.note("nobody reads this")
    display.update(epoch=0, batch=1, batches=2)
    display.close()
    assert capsys.readouterr().out == ""


SCRIPT = """
import sys
from rekindle.run.progress import ProgressDisplay
display = ProgressDisplay(2)
for batch in range(1, 4):
    display.update(epoch=0, batch=batch, batches=3, values={"loss": 1 / batch})
display.note("a note in between")
display.close()
print("to stdout")
"""


def test_a_terminal_gets_a_live_line_and_stdout_stays_clean():
    leader, follower = pty.openpty()
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        timeout=60,
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    assert child.returncode == 0
    assert child.stdout == b"to stdout\n"
    text = seen.decode()
    assert "\x1b[2K" in text  # the line is drawn over
    assert "a note in between" in text
    assert "loss 0.3333" in text.splitlines()[-1]


def test_no_thread_is_started_by_the_display():
    import threading

    before = set(threading.enumerate())  # others may end meanwhile
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        display = ProgressDisplay(stream=terminal)
        display.update(epoch=0, batch=1, batches=2)
        assert set(threading.enumerate()) <= before
        display.close()
    os.close(leader)


class NotebookStream:
    """What ipykernel puts in the place of stderr: no file, no terminal, text only, flushed by a message."""

    encoding = "UTF-8"

    def __init__(self):
        self.messages, self._waiting = [], ""

    def isatty(self):
        return False

    def fileno(self):
        raise io.UnsupportedOperation("fileno")

    def write(self, text):
        assert isinstance(text, str)
        self._waiting += text
        return len(text)

    def flush(self):
        if self._waiting:
            self.messages.append(self._waiting)
        self._waiting = ""


class BareStream:
    """What a logger may put in the place of stderr: it can be written to, and nothing else."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        return


def test_a_notebook_and_a_logger_get_whole_plain_lines():
    for stream in (NotebookStream(), BareStream()):
        clock = Clock()
        display = ProgressDisplay(2, stream=stream, clock=clock)
        for epoch in range(2):
            for batch in range(1, 4):
                clock.now += 1
                display.update(epoch=epoch, batch=batch, batches=3)
        display.note("saved")
        display.close()
        text = stream.text if isinstance(stream, BareStream) else "".join(stream.messages)
        assert "\x1b" not in text
        assert "\r" not in text
        assert [line.split("  ")[0] for line in text.splitlines()] == ["epoch 1/2", "saved", "epoch 2/2"]
        if isinstance(stream, NotebookStream):
            assert all(message.endswith("\n") for message in stream.messages)
