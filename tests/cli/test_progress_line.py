"""The line that says how far a command is."""

from __future__ import annotations

import sys

from rekindle.cli import _progress
from rekindle.cli._progress import ProgressLine, megabytes_a_second, progress_line


def test_it_speaks_after_a_second_and_goes_away_when_all_is_done(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    line = ProgressLine(megabytes_a_second)
    line(1_000_000, 4_000_000)
    assert capsys.readouterr().err == ""
    now[0] = 102.0
    line(2_000_000, 4_000_000)
    line(2_500_000, 4_000_000)  # a moment later: not worth saying
    assert capsys.readouterr().err == "\r\x1b[K  50 %  1 MB/s\r"
    line(4_000_000, 4_000_000)
    assert capsys.readouterr().err == "\r\x1b[K"
    line.clear()
    assert capsys.readouterr().err == ""


def test_nobody_is_told_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert progress_line(str) is None
