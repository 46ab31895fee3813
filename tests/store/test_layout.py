"""Names and paths of a run's folder."""

from __future__ import annotations

import pytest

from rekindle.errors import RunError
from rekindle.store.layout import (
    check_run_folder,
    is_run_folder,
    is_snapshot_folder,
    list_snapshots,
    read_run_file,
    snapshot_name,
    step_of_name,
    write_run_file,
)


@pytest.mark.parametrize("step", [0, 1, 400, 99_999_999, 100_000_000, 10**18 - 1])
def test_a_name_says_its_step(step):
    assert step_of_name(snapshot_name(step)) == step


@pytest.mark.parametrize(
    "name",
    [
        "step-400",
        "step-000000400",
        "step-0000040x",
        "step-00000400/",
        ".tmp-400-ab",
        "step--0000001",
        "",
        "step-\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661",
    ],
)
def test_other_names_are_nobodys_step(name):
    assert step_of_name(name) is None


@pytest.mark.parametrize("step", [-1, 10**18])
def test_a_step_out_of_range_has_no_name(step):
    with pytest.raises(ValueError, match="a step is between"):
        snapshot_name(step)


def test_snapshots_are_listed_newest_first_by_number(tmp_path):
    assert list_snapshots(tmp_path) == []
    for step in (5, 100_000_000, 99_999_999):
        (tmp_path / "snapshots" / snapshot_name(step)).mkdir(parents=True)
    (tmp_path / "snapshots" / ".tmp-7-abc").mkdir()
    (tmp_path / "snapshots" / "notes.txt").touch()
    assert [listed.step for listed in list_snapshots(tmp_path)] == [100_000_000, 99_999_999, 5]
    assert list_snapshots(tmp_path)[2].name == "step-00000005"


def test_run_json_comes_back_and_marks_the_folder(tmp_path):
    assert not is_run_folder(tmp_path)
    write_run_file(tmp_path, {"seed": 3, "command": ["python", "train.py"]})
    assert read_run_file(tmp_path)["seed"] == 3
    assert is_run_folder(tmp_path)
    assert not is_run_folder(tmp_path / "nowhere")


def test_a_run_that_lost_its_run_json_is_known_by_its_snapshots(tmp_path):
    (tmp_path / "snapshots" / "step-00000001").mkdir(parents=True)
    assert is_run_folder(tmp_path)
    check_run_folder(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"format": "other"}', "not json", "[]", "\ufeff", '"rekindle"'])
def test_another_programs_run_json_is_not_ours(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert read_run_file(tmp_path) is None
    assert not is_run_folder(tmp_path)
    with pytest.raises(RunError, match="the folder belongs to something else") as caught:
        check_run_folder(tmp_path)
    assert "it holds run.json" in caught.value.why


def test_our_run_json_damaged_or_newer_is_said(tmp_path):
    write_run_file(tmp_path, {"seed": 3})
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text[:-3])
    with pytest.raises(RunError, match="is damaged"):
        read_run_file(tmp_path)
    (tmp_path / "run.json").write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(RunError, match="written by another version of rekindle"):
        read_run_file(tmp_path)


def test_a_folder_of_something_else_is_refused_and_named(tmp_path):
    for name in ("events.out", "ckpt_1.pt", "a\x1b[31m", "z"):
        (tmp_path / name).touch()
    with pytest.raises(RunError) as caught:
        check_run_folder(tmp_path)
    assert (
        caught.value.why == "it holds a\\x1b[31m, ckpt_1.pt, events.out and 1 more, and no run.json of a rekindle run"
    )


def test_nothing_an_empty_folder_and_a_first_launch_that_died_are_fine(tmp_path):
    check_run_folder(tmp_path / "new")
    check_run_folder(tmp_path)
    (tmp_path / "LOCK").touch()
    (tmp_path / "snapshots").mkdir()
    (tmp_path / ".run.json.tmp-0123456789abcdef").touch()
    check_run_folder(tmp_path)


def test_a_file_is_no_place_for_a_run(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(RunError, match="a run needs a folder, and this is a file"):
        check_run_folder(tmp_path / "run")


def test_a_snapshot_folder_is_known_by_what_is_in_it(tmp_path):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    assert not is_snapshot_folder(folder)
    (folder / "state.json").touch()
    assert is_snapshot_folder(folder)
    other = tmp_path / "copied"
    other.mkdir()
    (other / "manifest.json").touch()
    assert not is_snapshot_folder(other)
    (other / "state.json").touch()
    assert is_snapshot_folder(other)
