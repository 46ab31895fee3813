"""Savers with one mistake each. A judge that does not convict them is no judge."""

from __future__ import annotations

import hashlib
import os
from unittest import mock

from crash_store_job import contents, linking, right, writers

import crash
from rekindle.store import atomic, commit
from rekindle.store.atomic import FileWriter, fsync_folder
from rekindle.store.layout import list_snapshots, snapshot_path, snapshots_path
from rekindle.store.manifest import FileFacts, encode_manifest

__all__ = ["linking"]  # for those who name a saver by this module


def _manifest(step):
    facts = {name: FileFacts(len(data), (hashlib.sha256(data).hexdigest(),)) for name, data in contents(step).items()}
    return encode_manifest(step, facts, {})


def _write(path, data):
    with FileWriter(path) as out:
        out.write(data)


def saved_and_replaced(run, step):
    """No mistake at all: each step is saved, promised, and then replaced, as the end of a run does."""
    crash.promise(right(run, step))
    return commit.commit(run, step, writers(step), {"finished": True}, replace=True).step


def without_file_fsync(run, step):
    """Rename without fsync: names arrive before bytes."""
    real = os.fsync

    def fsync(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            real(fd)

    with mock.patch.object(atomic, "_fsync", fsync):
        return right(run, step)


def without_folder_fsync(run, step):
    """Nobody makes sure of the names."""
    with mock.patch.object(commit, "fsync_folder", return_value=None):
        return right(run, step)


def without_fsync_of_the_new_folder(run, step):
    """The rename may arrive before the names of the files in the folder."""
    with mock.patch.object(
        commit, "fsync_folder", lambda path: None if ".tmp-" in os.path.basename(path) else fsync_folder(path)
    ):
        return right(run, step)


def without_fsync_of_the_parent(run, step):
    """The save is promised before its rename is on the disk."""
    with mock.patch.object(
        commit, "fsync_folder", lambda path: fsync_folder(path) if ".tmp-" in os.path.basename(path) else None
    ):
        return right(run, step)


def manifest_first(run, step):
    """Written under its final name; what commits is there before what it commits."""
    final = snapshot_path(run.path, step)
    if os.path.lexists(final):
        commit.move_to_trash(run, final)
    os.mkdir(final)
    _write(os.path.join(final, "manifest.json"), _manifest(step))
    fsync_folder(final)
    fsync_folder(snapshots_path(run.path))
    crash.promise(step)
    for name, data in contents(step).items():
        _write(os.path.join(final, name), data)
    fsync_folder(final)
    return step


def old_one_deleted_first(run, step):
    """Room is made before the new one is there."""
    for listed in list_snapshots(run.path):
        commit.move_to_trash(run, listed.path)
    return right(run, step)


def in_place(run, step):
    """One folder, renamed to the new step and written over."""
    final = snapshot_path(run.path, step)
    there = list_snapshots(run.path)
    if there:
        os.rename(there[0].path, final)
    else:
        os.mkdir(final)
    for name, data in [*contents(step).items(), ("manifest.json", _manifest(step))]:
        fd = os.open(os.path.join(final, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
    fsync_folder(final)
    fsync_folder(snapshots_path(run.path))
    return step


def promised_too_early(run, step):
    """The callback comes before the rename."""
    crash.promise(step)
    return right(run, step)
