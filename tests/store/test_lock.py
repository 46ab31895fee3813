"""One writer per run. Two processes, forks and kills are in tests/crash."""

from __future__ import annotations

import errno
import json
import os

import pytest

from rekindle.errors import RunError, RunLocked
from rekindle.store import lock as locks
from rekindle.store.lock import hold, holder_of


def test_holding_makes_the_folder_and_says_who(tmp_path):
    with hold(tmp_path / "runs" / "digits") as run:
        assert run.path == str(tmp_path / "runs" / "digits")
        assert sorted(os.listdir(run.path)) == ["LOCK", "snapshots"]
        assert holder_of(run.path) == f"process {os.getpid()} on {os.uname().nodename}"
    assert not run.held
    run.release()


def test_the_same_process_cannot_hold_it_twice_and_is_told_so(tmp_path):
    with hold(tmp_path) as run:
        with pytest.raises(RunLocked) as caught:
            hold(tmp_path)
        assert "this process writes this run already" in caught.value.what
        assert caught.value.do.startswith("call run.close() on that one first")
        run.require()
    hold(tmp_path).release()


def test_a_job_id_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with hold(tmp_path) as run:
        assert holder_of(run.path).endswith("(job 4711)")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff", b'{"pid": "x", "host": 3}', b"[" * 4096])
def test_a_lock_file_with_anything_in_it_is_still_a_lock(tmp_path, content):
    (tmp_path / "LOCK").write_bytes(content)
    assert holder_of(tmp_path) == ""
    hold(tmp_path).release()


def test_a_name_from_the_file_reaches_no_terminal_raw(tmp_path):
    (tmp_path / "LOCK").write_text(json.dumps({"pid": 1, "host": "a\x1b[31m\nb", "job": None}))
    assert holder_of(tmp_path) == "process 1 on a??31m?b"


def test_a_lock_file_that_was_replaced_no_longer_counts(tmp_path):
    with hold(tmp_path) as run:
        os.unlink(tmp_path / "LOCK")
        with pytest.raises(RunError, match="moved, replaced or emptied"):
            run.require()
        (tmp_path / "LOCK").touch()
        with pytest.raises(RunError, match="moved, replaced or emptied"):
            run.require()
    with pytest.raises(RunError, match="the run is closed"):
        run.require()


def test_a_file_replaced_between_opening_and_locking_is_opened_again(tmp_path, monkeypatch):
    real, count = locks._try_lock, []

    def try_lock(fd):
        real(fd)
        count.append(fd)
        if len(count) == 1:
            os.unlink(tmp_path / "LOCK")

    monkeypatch.setattr(locks, "_try_lock", try_lock)
    with hold(tmp_path) as run:
        run.require()
    assert len(count) == 2


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "LOCK").symlink_to("other")
    with pytest.raises(OSError, match="symbolic links"):
        hold(tmp_path)
    assert (tmp_path / "other").read_text() == "precious"


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def none(fd):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "_try_lock", none)
    with pytest.raises(RunError, match="the file system has no locks"):
        hold(tmp_path)


def test_a_file_in_the_way_is_an_os_error(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        hold(tmp_path / "runs" / "digits")
