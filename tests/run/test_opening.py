"""Opening a run: which folder, which snapshot, which seed, and what is said about what differs."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from dataclasses import replace

import pytest
import torch
from small_lives import metrics, objects, plain_training, train

import rekindle as rk
from rekindle.errors import ConfigError, NothingToResume, RunError, RunLocked, SnapshotDamaged, StateMismatch
from rekindle.parallel.notes import COMMAND_VARIABLE
from rekindle.run.snapshot import read
from rekindle.store.layout import list_snapshots


def test_the_seed_is_drawn_once_and_kept(start):
    run = start(seed=None)
    assert start(seed=None).seed == run.seed
    train(start(seed=None))
    with pytest.raises(ConfigError, match=f"the run began with seed {run.seed}"):
        start(seed=run.seed + 1)


def test_a_run_that_saved_nothing_may_begin_with_another_seed(start, tmp_path):
    start(seed=3)
    assert start(seed=4).seed == 4
    assert start(seed=None).seed == 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 4


def test_the_same_seed_gives_the_same_start(start):
    first, second = start("a"), [p.clone() for p in objects()["model"].parameters()]
    random.random(), torch.rand(5)
    start("b", seed=first.seed)
    assert all(torch.equal(a, b) for a, b in zip(second, objects()["model"].parameters(), strict=True))


def test_run_json_tells_what_the_run_is(start, tmp_path):
    start(keep_best="min:loss")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["seed"] == 1
    assert facts["settings"]["keep_best"] == "min:loss"
    assert facts["environment"]["torch"] == torch.__version__
    assert facts["world_size"] == 1


def test_the_command_that_goes_on_is_that_of_the_last_life_which_did(start, tmp_path, monkeypatch, capsys):
    def command():
        return json.loads((tmp_path / "run" / "run.json").read_text())["command"]

    def launched_by(*words):
        monkeypatch.setenv(COMMAND_VARIABLE, json.dumps(words))

    launched_by("python", "train.py")
    train(start(), epochs=1)
    launched_by("rekindle", "launch", "train.py")
    run = start()
    assert command() == ["python", "train.py"]  # it has not gone on yet
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    train(run, epochs=2)
    assert command() == ["rekindle", "launch", "train.py"]
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {**facts, "command": command()}
    launched_by("python", "other.py")
    with pytest.raises(StateMismatch):
        start().epochs(3)  # nothing was tracked
    assert command() == ["rekindle", "launch", "train.py"]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rekindle.run.opening.write_run_file", full)
    train(start(), epochs=3)
    assert "run.json still names the command of an earlier launch: [Errno 28] No space left" in capsys.readouterr().err
    assert command() == ["rekindle", "launch", "train.py"]


def test_a_second_writer_is_refused(start, tmp_path):
    start()
    with pytest.raises(RunLocked):
        rk.Run(tmp_path / "run", seed=1)


def test_never_refuses_a_folder_with_snapshots_and_touches_nothing(start):
    run = start()
    train(run)
    before = [listed.step for listed in list_snapshots(run.folder)]
    with pytest.raises(RunError, match='resume="never", and it has 3 snapshots up to step 18'):
        start(resume="never")
    assert [listed.step for listed in list_snapshots(run.folder)] == before


def test_must_refuses_a_folder_without(start):
    with pytest.raises(NothingToResume, match="no snapshot to go on from"):
        start(resume="must")
    train(start())
    assert start(resume="must").steps_done == 18


def test_another_run_can_be_begun_from_a_snapshot(start, tmp_path):
    train(start("old"))
    whole, _ = train(start("whole"), epochs=5)
    for source in (tmp_path / "old", tmp_path / "old" / "snapshots" / "step-00000018"):
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        more, _ = train(start("new", resume=source), epochs=5)
        assert more == whole[18:]
        # on the second launch its own snapshots go before
        assert start("new", resume=source).steps_done == 30
    with pytest.raises(NothingToResume):
        start("third", resume=tmp_path / "nowhere")


def test_an_older_snapshot_of_the_same_run_is_refused(start, tmp_path):
    train(start())
    with pytest.raises(RunError, match="is not its newest snapshot, step-00000018 is"):
        start(resume=tmp_path / "run" / "snapshots" / "step-00000015")


def test_a_damaged_snapshot_is_passed_over_and_said_so(start, tmp_path, capsys):
    whole, _ = train(start())
    newest = tmp_path / "run" / "snapshots" / "step-00000018" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1
    newest.write_bytes(data)
    again, _ = train(start())
    assert again == whole[15:]
    said = capsys.readouterr().err
    assert "passed over step-00000018: model.safetensors" in said
    assert "goes on after step 15 (epoch 2, batch 3) from step-00000015" in said


def test_nothing_that_holds_is_an_error_and_never_a_new_beginning(start, tmp_path):
    train(start())
    for listed in list_snapshots(tmp_path / "run"):
        os.truncate(os.path.join(listed.path, "model.safetensors"), 10)
    before = metrics(tmp_path, "run")
    with pytest.raises(SnapshotDamaged, match="none of its 3 snapshots holds"):
        start()
    assert metrics(tmp_path, "run") == before


def test_a_setting_that_changes_the_bits_is_said(start, capsys):
    train(start())
    start(precision="bf16", save_every="7 steps")
    said = capsys.readouterr().err
    assert "precision was fp32, is bf16; the bits differ from here on" in said
    assert "save_every" not in said


def test_a_folder_of_something_else_is_refused(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("\\documentclass{article}")
    with pytest.raises(RunError, match="belongs to something else"):
        start()
    assert os.listdir(tmp_path / "run") == ["thesis.tex"]


def test_the_folder_can_be_redirected(start, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REKINDLE_RUN_FOLDER", str(tmp_path / "elsewhere"))
    assert start().folder == str(tmp_path / "elsewhere")
    assert "REKINDLE_RUN_FOLDER is set" in capsys.readouterr().err


def test_a_snapshot_that_lacks_what_the_run_kept_for_itself_still_goes_on(start, monkeypatch):
    run = start()
    plain_training(run, bad_from=99, steps=3)
    for name in ("state", "best", "log", "environment", "settings", "finished", "epochs"):
        with monkeypatch.context() as patch:
            patch.setattr("rekindle.run.start.read", lambda path, name=name: without(name, path))
            assert start().steps_done == 3
    with monkeypatch.context() as patch:
        patch.setattr("rekindle.run.start.read", lambda path: without("place", path))
        with pytest.raises(SnapshotDamaged, match="does not say where in the run it was taken"):
            start()


def without(name, path):
    saved = read(path)
    return replace(saved, extra={key: value for key, value in saved.extra.items() if key != name})


def test_a_full_disk_at_the_start_is_named(start, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        start()
    assert caught.value.filename == str(tmp_path / "run")


def test_must_leaves_no_folder_behind(start, tmp_path):
    with pytest.raises(NothingToResume, match="no snapshot to go on from"):
        start("misspelt", resume="must")
    assert not (tmp_path / "misspelt").exists()
