"""The newest snapshot that holds. Every kind of damage is in tests/crash/test_store_errors.py."""

from __future__ import annotations

import os
import shutil

import pytest

from rekindle.store import find
from rekindle.store.commit import commit
from rekindle.store.find import Found, newest_good
from rekindle.store.lock import hold
from rekindle.store.manifest import Damage, verify


@pytest.fixture
def run(tmp_path):
    with hold(tmp_path / "run") as lock:
        for step in (1, 2, 3):
            commit(lock, step, {"a.bin": lambda out, step=step: out.write(b"%d" % step)}, {})
        yield lock.path


def damage(run, step):
    with open(os.path.join(run, "snapshots", f"step-0000000{step}", "a.bin"), "wb") as file:
        file.write(b"X")


def test_the_newest_that_holds_is_found_and_the_others_are_named(run):
    assert newest_good(run) == Found(os.path.join(run, "snapshots", "step-00000003"), 3, ())
    damage(run, 3)
    damage(run, 2)
    found = newest_good(run)
    assert found.step == 1
    assert [name for name, _ in found.passed_over] == ["step-00000003", "step-00000002"]
    assert not found.nothing_holds


def test_without_digests_only_sizes_are_compared(run):
    damage(run, 3)
    assert newest_good(run, digests=False).step == 3


def test_something_there_and_nothing_that_holds_is_not_the_same_as_nothing(run, tmp_path):
    for step in (1, 2, 3):
        damage(run, step)
    assert newest_good(run).nothing_holds
    assert not newest_good(tmp_path / "nowhere").nothing_holds
    assert newest_good(tmp_path / "nowhere") == Found(None, None, ())


def test_a_snapshot_that_vanishes_meanwhile_is_skipped_in_silence(run, monkeypatch):
    def pruned(path, digests):
        if path.endswith("3"):
            shutil.rmtree(path)
        return verify(path, digests=digests)

    monkeypatch.setattr(find, "verify", pruned)
    assert newest_good(run) == Found(os.path.join(run, "snapshots", "step-00000002"), 2, ())


def test_a_snapshot_that_goes_while_it_is_read_is_skipped_and_one_that_is_replaced_is_read_again(run, monkeypatch):
    path = os.path.join(run, "snapshots", "step-00000003")
    shutil.copytree(path, run + "/copy")
    calls = []

    def disturbed(path, digests):
        calls.append(path)
        if len(calls) == 1:  # its writer exchanged it: what is read is being deleted
            shutil.rmtree(path)
            os.rename(run + "/copy", path)
            return Damage("a.bin", "a.bin is missing")
        return verify(path, digests=digests)

    monkeypatch.setattr(find, "verify", disturbed)
    assert newest_good(run) == Found(path, 3, ())

    def going(path, digests):
        if path.endswith("3"):
            shutil.rmtree(path)
            return Damage("a.bin", "a.bin is missing")
        return verify(path, digests=digests)

    monkeypatch.setattr(find, "verify", going)
    assert newest_good(run) == Found(os.path.join(run, "snapshots", "step-00000002"), 2, ())


def test_looking_changes_nothing(run):
    os.mkdir(os.path.join(run, "snapshots", ".tmp-4-ab"))
    before = {path: (os.stat(path).st_mtime_ns, sorted(names)) for path, _, names in os.walk(run)}
    newest_good(run)
    assert {path: (os.stat(path).st_mtime_ns, sorted(names)) for path, _, names in os.walk(run)} == before
