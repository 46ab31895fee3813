"""`metrics.jsonl` and event files: whole lines, never twice."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

import rekindle as rk
from rekindle.errors import RunError
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


def test_step_and_epoch_of_a_line_are_those_of_the_run(tmp_path):
    log = MetricsFile(str(tmp_path / "metrics.jsonl"))
    log.write(7, 2, {"step": 999, "loss": 0.5, "epoch": 1})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 7, "epoch": 2, "loss": 0.5}]
    log.close()


def test_a_forked_process_cannot_write_lines_that_the_run_would_cut_in_two(tmp_path):
    log = MetricsFile(str(tmp_path / "metrics.jsonl"))
    log.write(1, 0, {"loss": 0.5})
    pid = os.fork()
    if pid == 0:
        try:
            log.write(2, 0, {"loss": 0.25})
        except RunError as error:
            os._exit(0 if "such as a data loader's worker" in error.what else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    log.write(3, 0, {"loss": 0.125})
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 3]
    log.close()


def test_a_log_stays_where_it_was_begun_and_its_events_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log, events = MetricsFile("metrics.jsonl"), EventFiles("tensorboard", wanted=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    log.write(1, 0, {"loss": 0.5})
    events.write(1, {"loss": 0.5})
    assert len(events.sizes()) == 1
    log.close()
    events.close()
    assert len(lines(tmp_path / "metrics.jsonl")) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_event_files_are_left_out_where_tensorboard_cannot_write_unless_they_were_asked_for(tmp_path):
    folder = str(tmp_path / os.fsdecode(b"no text \xff"))
    events = EventFiles(folder, wanted=None)
    events.write(1, {"loss": 0.5})
    assert events.writer is None
    with pytest.raises(UnicodeEncodeError):
        EventFiles(folder, wanted=True).write(1, {"loss": 0.5})


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


def test_metrics_of_scikit_learn_are_logged_and_decide_what_is_best_and_when_to_stop(tmp_path):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(90, 4, generator=generator)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    best, seen = 0.0, []
    with rk.Run(tmp_path / "run", seed=0, keep_best="f1", save_every="1 epoch", tensorboard=False) as run:
        model = torch.nn.Linear(4, 3)
        model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
        run.stop_when("f1", patience=4)
        data = torch.utils.data.TensorDataset(inputs[:60], labels[:60])
        for _ in run.epochs(40):
            for x, y in run.batches(run.loader(data, batch_size=20)):
                run.backward(torch.nn.functional.cross_entropy(model(x), y))
                run.update()
                run.step()
            with run.evaluating(model):
                said, true = model(inputs[60:]).argmax(1), labels[60:]
                assert not model.training
                assert not model(inputs).requires_grad
            assert model.training
            f1 = metrics.f1_score(true, said, average="macro")
            run.log(accuracy=metrics.accuracy_score(true, said), f1=f1)
            best, seen = max(best, f1), [*seen, f1]
    assert len(seen) < 40  # patience was over before
    assert run.best.value == best > seen[0]
    assert [line["f1"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == seen
    correct = float((said == true).float().mean())
    assert lines(tmp_path / "run" / "metrics.jsonl")[-1]["accuracy"] == pytest.approx(correct)
