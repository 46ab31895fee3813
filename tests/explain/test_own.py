"""Errors of rekindle itself are told in their own three parts, and not mistaken for what they were raised from."""

from __future__ import annotations

import explaining  # noqa: F401 - the entries as they are now
import pytest

import rekindle as rk
from rekindle.errors import UnreadableFile
from rekindle.explain.event import Event
from rekindle.explain.live import events_of_exception
from rekindle.explain.own import own_cause, own_reports
from rekindle.explain.report import explain_events, explain_text
from rekindle.explain.words import report_json, report_lines

CALLS = 'Traceback (most recent call last):\n  File "/home/ada/project/train.py", line 9, in <module>\n    %s\n'
LIBRARY = (
    '  File "/opt/venv/lib/python3.11/site-packages/rekindle/run/loop.py", line 90, in __enter__\n    self._open()\n'
)
LOCKED = """rekindle.errors.RunLocked: runs/digits: another process writes this run
  why     process 4711 on node07 has held it since 10:00
  do      wait for it, or give this run a folder of its own
"""


def test_the_three_parts_are_said_as_they_stand():
    report = explain_text(CALLS % 'with rk.Run("runs/digits") as run:' + LIBRARY + LOCKED, strict=True)
    assert list(report_lines(report)) == [
        "runs/digits: another process writes this run",
        '  where   /home/ada/project/train.py:9  with rk.Run("runs/digits") as run:',
        "  why     process 4711 on node07 has held it since 10:00",
        "  do      wait for it, or give this run a folder of its own",
    ]
    causes = report_json(report)["causes"]
    assert isinstance(causes, list)
    [said] = causes
    assert (said["code"], said["name"], said["likelihood"]) == ("", "run-locked", "certain")


def test_a_code_that_has_a_page_is_offered():
    error = (
        "rekindle.errors.UnreadableFile: x.pt: the archive ends before its directory  [RK-FILE-04]\n"
        "  do      copy it again\n"
    )
    lines = list(report_lines(explain_text(CALLS % 'rk.load("x.pt")' + error, strict=True)))
    assert lines[0] == "x.pt: the archive ends before its directory  [RK-FILE-04]"
    assert lines[-1] == "  more    rekindle explain RK-FILE-04"


def test_what_it_was_raised_from_is_not_explained_in_its_place():
    disk = CALLS % "save()" + "OSError: [Errno 28] No space left on device\n"
    chained = f"{disk}\nThe above exception was the direct cause of the following exception:\n\n" + CALLS % "run.save()"
    error = (
        "rekindle.errors.RunError: runs/digits: the snapshot was not written\n"
        "  why     the disk is full\n  do      df -h runs\n"
    )
    [cause] = explain_text(chained + error, strict=True).causes
    assert (cause.what, cause.fix) == ("runs/digits: the snapshot was not written", ("df -h runs",))


def test_a_live_one_is_told_the_same_way(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04" + b"0" * 50)
    with pytest.raises(UnreadableFile) as caught:
        rk.load(tmp_path / "x.pt")
    [cause] = explain_events(events_of_exception(caught.value), strict=True).causes
    assert cause.code == caught.value.code == "RK-FILE-04"
    assert cause.why == caught.value.why


def test_what_the_command_line_said_of_a_run_is_found_among_other_lines():
    log = (
        "epoch 1 loss 0.3\n"
        "runs/digits: no space is left on this disk\n  why     12 MB are free\n  do      df -h runs\n"
        "bye\n"
    )
    [cause] = explain_text(log, strict=True).causes
    assert (cause.what, cause.why) == ("runs/digits: no space is left on this disk", "12 MB are free")


def test_an_explanation_in_a_log_is_no_error_of_its_own():
    assert (
        list(own_reports("a thing\n  why     because\n  do      that\n  more    rekindle explain RK-SHAPE-01\n")) == []
    )


def test_a_rank_that_only_lost_another_one_is_not_the_cause():
    lost = (
        "rekindle.errors.RunError: rank 1 of 2 is gone: KeyError: 'x'\n  why     it raised\n  do      rekindle launch\n"
    )
    first = "".join(f"[rank0]: {line}\n" for line in (CALLS % "run.step()" + lost).splitlines())
    real = CALLS % "net(x)" + "RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)\n"
    second = "".join(f"[rank1]: {line}\n" for line in real.splitlines())
    report = explain_text(first + second, strict=True)
    assert [cause.code for cause in report.causes] == ["RK-SHAPE-01"]
    assert report.explained[0].ranks == (1,)


@pytest.mark.parametrize(
    "event", [Event("RuntimeError", "x\n  why     y"), Event("rekindle.errors.RunError", "x alone")]
)
def test_others_errors_and_those_without_parts_are_left_to_the_entries(event):
    assert own_cause(event) is None
