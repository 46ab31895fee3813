"""What the levels of a launch tell each other."""

from __future__ import annotations

import os

import pytest

from rekindle.parallel import notes


@pytest.fixture
def nobody(monkeypatch):
    """A process that is no rank of a launch; what it becomes in a test is forgotten after it."""
    monkeypatch.setattr(notes, "_own", None)


def test_a_rank_notes_that_it_began_and_how_it_ends_under_its_attempt(nobody, tmp_path):
    notes.introduce(str(tmp_path), "1", {"rank": 2, "local_rank": 0, "pid": 17})
    notes.tell_end({"code": 3, "error": "", "place": ""})
    assert notes.beginnings(str(tmp_path)) == {2: {"rank": 2, "local_rank": 0, "pid": 17}}
    ended = notes.endings(str(tmp_path), 1)[2]
    assert (ended["rank"], ended["pid"], ended["code"]) == (2, 17, 3)
    assert notes.endings(str(tmp_path), 0) == {}


def test_of_what_ranks_say_about_the_cause_the_first_word_counts(nobody, tmp_path):
    notes.introduce(str(tmp_path), "0", {"rank": 0, "local_rank": 0, "pid": 17})
    notes.tell_cause(1, "ValueError: x")
    notes.tell_cause(0, "RuntimeError: y")
    told = notes.read(str(tmp_path), "cause-0")
    assert told is not None
    assert (told["rank"], told["error"]) == (1, "ValueError: x")


def test_outside_of_a_launch_nothing_is_written(nobody, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes.introduce("", "0", {"rank": 0, "local_rank": 0, "pid": 17})
    notes.tell_end({"code": 0})
    notes.tell_cause(0, "x")
    assert os.listdir(tmp_path) == []
