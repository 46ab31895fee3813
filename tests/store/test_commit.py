"""Committing: one call, one snapshot, or none. Kills, power cuts and failing calls are in tests/crash."""

from __future__ import annotations

import errno
import os

import pytest

from rekindle.errors import RunError
from rekindle.store import commit as commits
from rekindle.store.commit import (
    Committed,
    abandon,
    begin,
    clean_leftovers,
    commit,
    finish,
    remove_tree,
    write_files,
)
from rekindle.store.lock import hold
from rekindle.store.manifest import read_manifest, verify


@pytest.fixture
def run(tmp_path):
    with hold(tmp_path / "run") as lock:
        yield lock


def files(text=b"abc"):
    return {"model.bin": lambda out: out.write(text), "state.json": lambda out: out.write(b"{}")}


def test_a_commit_says_where_and_how_much(run):
    done = commit(run, 400, files(), {"torch": "2.13"})
    assert done == Committed(400, os.path.join(run.path, "snapshots", "step-00000400"), 5)
    assert sorted(os.listdir(done.path)) == ["manifest.json", "model.bin", "state.json"]
    assert verify(done.path) is None
    assert read_manifest(done.path).facts == {"torch": "2.13"}


def test_a_step_that_is_there_and_holds_is_kept(run):
    commit(run, 1, files(b"first"), {})
    done = commit(run, 1, files(b"second"), {})
    assert (done.written, done.size_bytes) == (False, 7)
    with open(os.path.join(done.path, "model.bin"), "rb") as file:
        assert file.read() == b"first"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_replacing_a_step_takes_its_place_in_one_step_or_keeps_the_old_one(run, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(commits, "exchange", lambda *_: False)
    commit(run, 1, files(b"first"), {})
    done = commit(run, 1, files(b"second"), {"finished": True}, replace=True)
    assert done.written is can_exchange
    assert verify(done.path) is None
    assert read_manifest(done.path).facts == ({"finished": True} if can_exchange else {})
    assert os.listdir(os.path.join(run.path, "snapshots")) == ["step-00000001"]


def test_a_step_that_is_there_and_damaged_is_written_anew(run):
    path = commit(run, 1, files(b"first"), {}).path
    os.unlink(os.path.join(path, "model.bin"))
    assert commit(run, 1, files(b"second"), {}).written
    assert verify(path) is None
    assert os.listdir(os.path.join(run.path, "snapshots")) == ["step-00000001"]


@pytest.mark.parametrize("name", ["../x", "manifest.json", "MANIFEST.JSON", ".x", "a/b", ""])
def test_a_name_that_is_no_file_of_a_snapshot_is_refused_before_anything(run, name):
    with pytest.raises(ValueError, match="cannot be the name of a file in a snapshot"):
        commit(run, 1, {name: lambda _: None}, {})
    assert os.listdir(os.path.join(run.path, "snapshots")) == []


def test_two_names_that_differ_by_case_are_refused(run):
    with pytest.raises(ValueError, match="one file on systems that ignore case"):
        commit(run, 1, {"Model.bin": lambda _: None, "model.bin": lambda _: None}, {})


def test_nothing_is_written_without_the_lock(tmp_path):
    lock = hold(tmp_path / "run")
    lock.release()
    for work in (lambda: commit(lock, 1, files(), {}), lambda: clean_leftovers(lock)):
        with pytest.raises(RunError, match="the run is closed"):
            work()
    assert os.listdir(tmp_path / "run" / "snapshots") == []


def test_leftovers_are_cleaned_and_nothing_else(run):
    path = commit(run, 1, files(), {}).path
    folder = os.path.dirname(path)
    for name in (".tmp-2-ab", ".trash-step-00000001-cd"):
        os.makedirs(os.path.join(folder, name, "deep", "deeper"))
    open(os.path.join(folder, ".tmp-file"), "w").close()
    os.symlink(path, os.path.join(folder, ".trash-link"))
    open(os.path.join(run.path, ".run.json.tmp-ab"), "w").close()
    open(os.path.join(folder, "notes.txt"), "w").close()
    removed = clean_leftovers(run)
    assert removed == [".tmp-2-ab", ".tmp-file", ".trash-link", ".trash-step-00000001-cd", ".run.json.tmp-ab"]
    assert sorted(os.listdir(folder)) == ["notes.txt", "step-00000001"]
    assert verify(path) is None
    assert clean_leftovers(run) == []


def test_removing_a_tree_never_follows_a_link(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "precious")
    remove_tree(str(tmp_path / "tree"))
    assert (tmp_path / "precious" / "file").exists()
    assert not (tmp_path / "tree").exists()
    remove_tree(str(tmp_path / "tree"))


def test_removing_stops_at_a_tree_too_deep_to_be_ours(tmp_path):
    os.makedirs(tmp_path / "/".join("abcdefghijklmnopqrst"))
    with pytest.raises(OSError, match="lies too deep"):
        remove_tree(str(tmp_path / "a"))


def test_a_full_disk_is_named_though_the_call_that_noticed_knows_only_a_number(run):
    def full(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as caught:
        commit(run, 1, {"model.bin": full}, {})
    assert caught.value.filename == run.path


def test_several_writers_share_one_commit(run):
    """What ranks do: one begins, each writes its own files, one finishes with what all of them say."""
    pending = begin(run, 7, need_bytes=1000)
    records = {}
    for rank in range(3):
        records |= write_files(pending.folder, {f"rank-{rank}.bin": lambda out, n=rank: out.write(bytes([n]) * 10)})
    done = finish(run, pending, records, {"world_size": 3})
    assert done == Committed(7, os.path.join(run.path, "snapshots", "step-00000007"), 30)
    assert verify(done.path) is None
    assert sorted(read_manifest(done.path).files) == ["rank-0.bin", "rank-1.bin", "rank-2.bin"]
    assert not os.path.exists(pending.folder)


def test_a_commit_that_nobody_finishes_is_not_there_and_leaves_nothing(run):
    pending = begin(run, 7)
    write_files(pending.folder, files())
    assert os.listdir(os.path.join(run.path, "snapshots")) == [os.path.basename(pending.folder)]
    abandon(pending)
    abandon(pending)
    assert os.listdir(os.path.join(run.path, "snapshots")) == []


def test_two_writers_cannot_write_one_file(run):
    pending = begin(run, 7)
    write_files(pending.folder, files())
    with pytest.raises(FileExistsError):
        write_files(pending.folder, files())


def test_beginning_a_step_that_is_there_says_so_and_finishing_it_gives_that_one(run):
    there = commit(run, 7, files(), {})
    pending = begin(run, 7)
    assert pending.already is not None
    assert finish(run, pending, {}, {}).path == there.path
