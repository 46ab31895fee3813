"""Folders of runs that something happened to, and errors of the machine whose reason is the folder."""

from __future__ import annotations

import errno
import os
import shutil
from types import SimpleNamespace

import pytest

from rekindle.errors import RunError
from rekindle.store.commit import commit, note_what_was_done
from rekindle.store.layout import check_run_folder, is_run_folder, write_run_file
from rekindle.store.lock import hold
from rekindle.verbs.runs import find_runs, summarise_run


@pytest.fixture
def run(tmp_path):
    with hold(tmp_path / "run") as lock:
        yield lock


def test_a_run_whose_run_json_is_torn_is_still_a_run_and_what_is_wrong_is_said(run, tmp_path):
    commit(run, 1, {"a.bin": lambda out: out.write(b"a")}, {})
    write_run_file(run.path, {"seed": 3})
    path = os.path.join(run.path, "run.json")
    os.truncate(path, os.path.getsize(path) - 2)
    check_run_folder(run.path)
    assert is_run_folder(run.path)
    assert find_runs(tmp_path) == [run.path]
    summary = summarise_run(run.path)
    assert "run.json: is damaged" in summary.fault
    assert summary.newest.step == 1


@pytest.mark.parametrize("what", ["", "snapshots"])
def test_an_error_of_a_folder_that_is_gone_says_so_and_promises_nothing(run, what):
    shutil.rmtree(os.path.join(run.path, what))
    with pytest.raises(RunError, match="was moved") as caught:
        commit(run, 1, {"a.bin": lambda out: out.write(b"a")}, {})
    assert "untouched" not in str(caught.value)


def test_a_file_that_fails_where_the_folder_is_there_says_what_was_being_done(run):
    error = OSError(errno.EIO, "Input/output error")
    note_what_was_done(error, run, 7)
    assert error.filename == run.path
    assert error.__notes__ == [f"while saving step 7 to {run.path}; earlier snapshots are untouched"]


@pytest.mark.parametrize(("files", "names_left", "said"), [(1000, 0, True), (1000, 500, False), (0, 0, False)])
def test_a_disk_with_bytes_and_no_names_left_is_said_as_such(run, monkeypatch, files, names_left, said):
    """`df` shows room there. A file system that counts no names says 0 of 0."""
    monkeypatch.setattr(
        os, "statvfs", lambda _: SimpleNamespace(f_files=files, f_favail=names_left, f_bavail=9000, f_frsize=4096)
    )
    error = OSError(errno.ENOSPC, "No space left on device")
    note_what_was_done(error, run, 7)
    assert any("no name for another file is (inodes)" in note for note in error.__notes__) is said
