"""`metrics.jsonl` and event files: whole lines, never twice."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from rekindle.run.log import EventFiles, MetricsFile, plain_value


def lines(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_a_line_is_strict_json_in_the_order_it_was_given(tmp_path):
    log = MetricsFile(str(tmp_path / "metrics.jsonl"))
    log.write(7, 2, {"loss": 0.5, "name": "größe\n\ud800", "ok": True, "none": None})
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(b'{"step": 7, "epoch": 2, "loss": 0.5, ')
    assert lines(tmp_path / "metrics.jsonl")[0]["name"] == "größe\n\ud800"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (0.1, 0.1),
        (torch.tensor(2.5), 2.5),
        (torch.tensor([3]), 3),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(4), 4),
        (torch.tensor(True), True),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (torch.tensor(float("-inf")), "-Infinity"),
        ("text", "text"),
    ],
)
def test_values_become_what_json_has(value, expected):
    found = plain_value("x", value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("value", [torch.zeros(3), [1, 2], {"a": 1}, object(), 1j, torch.tensor(1j), np.zeros(2)])
def test_what_is_not_one_value_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"run\.log\(accuracy=\.\.\.\)"):
        plain_value("accuracy", value)


def test_a_file_is_cut_back_and_appended_to(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsFile(str(path))
    log.write(1, 0, {"a": 1})
    kept = log.sync()
    log.write(2, 0, {"a": 2})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 3, "torn')
    later = MetricsFile(str(path))
    assert later.cut(kept) is None
    later.write(2, 0, {"a": 9})
    assert [line["a"] for line in lines(path)] == [1, 9]
    assert later.sync() == path.stat().st_size


def test_a_file_that_lost_lines_is_said_so(tmp_path):
    log = MetricsFile(str(tmp_path / "metrics.jsonl"))
    log.write(1, 0, {"a": 1})
    assert "lines of it are lost" in log.cut(1000)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    log = MetricsFile(str(path))
    log.write(1, 0, {"a": 1})
    real = os.write

    def full(fd, data):
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return real(fd, bytes(data)[: len(data) - 5])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        log.write(2, 0, {"a": 2})
    assert "lines before it are untouched" in caught.value.__notes__[0]
    monkeypatch.undo()
    log.write(2, 0, {"a": 3})
    assert [line["a"] for line in lines(path)] == [1, 3]


def read_events(folder):
    """(step, tag) of each scalar in the raw files, in order."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for name in sorted(os.listdir(folder)):
        for event in EventFileLoader(os.path.join(folder, name)).Load():
            found += [(event.step, value.tag) for value in event.summary.value]
    return found


@pytest.mark.filterwarnings("ignore")  # TensorBoard's reader warns about its own dependencies
def test_event_files_are_cut_back_and_later_ones_removed(tmp_path):
    folder = str(tmp_path / "tensorboard")
    first = EventFiles(folder, wanted=True)
    first.write(1, {"loss": 1.0, "note": "a\nb", "gone": "NaN"})
    sizes = first.sync()
    first.write(2, {"loss": 2.0})
    first.close()
    second = EventFiles(folder, wanted=True)
    second.cut(sizes)
    second.write(2, {"loss": 2.5})
    second.sync()
    third = EventFiles(folder, wanted=True)
    third.cut(sizes)
    assert read_events(folder) == [(1, "loss"), (1, "note/text_summary"), (1, "gone")]
    third.write(2, {"loss": 3.0})
    third.close()
    assert [event for event in read_events(folder) if event[1] == "loss"] == [(1, "loss"), (2, "loss")]
    second.close()


def test_unwanted_event_files_are_not_made(tmp_path):
    files = EventFiles(str(tmp_path / "tensorboard"), wanted=False)
    files.write(1, {"loss": 1.0})
    assert files.sync() == {}
    assert not (tmp_path / "tensorboard").exists()
