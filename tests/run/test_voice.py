"""What a run says: on stderr alone, and only where somebody listens."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
import torch
from small_lives import train

from rekindle.run.places import Loop
from rekindle.run.voice import Voice


def test_progress_is_shown_when_asked_and_never_on_stdout(start, capsys):
    run = start(progress=True)
    run.show(loss=torch.tensor(0.25))
    train(run, epochs=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/1" in err
    assert "loss 0.25" in err


def test_what_is_said_once_is_said_once_and_by_rank_0_alone(capsys):
    voice = Voice(0, progress=False)
    for _ in range(2):
        voice.note("again", once=True)
    voice.note("twice")
    voice.note("twice")
    Voice(1, progress=True).note("of no interest")
    assert capsys.readouterr().err == "rekindle: again\nrekindle: twice\nrekindle: twice\n"
    assert not Voice(1, progress=True).shows


@pytest.mark.parametrize("stream", [None, "closed"])
def test_where_nobody_can_listen_nothing_is_said_and_nothing_ends(stream, monkeypatch, capsys):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stream else None)
    Voice(0, progress=None if stream is None else False).note("hello?")
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")


def test_the_display_is_drawn_ten_times_a_second_at_most_and_at_the_end_of_a_loop(monkeypatch):
    voice, drawn = Voice(0, progress=True), []
    monkeypatch.setattr(voice, "display", lambda _: SimpleNamespace(update=lambda **now: drawn.append(now)))
    loop = Loop((0,), delivered=0, length=1000)
    for position in range(1000):
        loop.delivered = position + 1
        voice.draw(2, 5, loop, steps_done=position)
    assert 2 <= len(drawn) < 200
    assert drawn[-1] == {"epoch": 2, "epochs": 5, "batch": 1000, "batches": 1000, "steps_done": 999, "values": {}}
