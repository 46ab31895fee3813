"""Copying by the kernel, and early writing to the disk: the same bytes, whatever the system can do."""

import errno
import os

import pytest

from rekindle.store import atomic
from rekindle.store.atomic import FileWriter

DATA = os.urandom(3_000_000)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").write_bytes(DATA)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_range_of_another_file_is_appended_where_the_writer_stands(tmp_path, source):
    with FileWriter(tmp_path / "target", hashing=False) as out:
        out.write(b"before")
        out.copy_from(source, 10, 2_000_000)
        out.write(b"after")
        assert out.size == 2_000_011
    assert (tmp_path / "target").read_bytes() == b"before" + DATA[10:2_000_010] + b"after"


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EINVAL])
def test_where_the_kernel_cannot_copy_the_bytes_are_read_and_written(tmp_path, source, monkeypatch, code):
    def refusing(*_args):
        raise OSError(code, "no")

    monkeypatch.setattr(os, "copy_file_range", refusing, raising=False)
    with FileWriter(tmp_path / "target", hashing=False) as out:
        out.copy_from(source, 0, len(DATA))
    assert (tmp_path / "target").read_bytes() == DATA


def test_a_full_disk_is_not_mistaken_for_a_call_that_is_missing(tmp_path, source, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full, raising=False)
    out = FileWriter(tmp_path / "target", hashing=False)
    with pytest.raises(OSError, match="No space left"):
        out.copy_from(source, 0, 10)
    out.abandon()


def test_a_source_that_ends_early_is_an_error(tmp_path, source):
    out = FileWriter(tmp_path / "target", hashing=False)
    with pytest.raises(OSError, match="became shorter"):
        out.copy_from(source, len(DATA) - 5, 10)
    out.abandon()


def test_a_writer_with_a_digest_must_see_the_bytes(tmp_path, source):
    with FileWriter(tmp_path / "target") as out, pytest.raises(ValueError, match="digest"):
        out.copy_from(source, 0, 10)


def test_early_writing_is_a_hint_that_changes_nothing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(atomic, "_start_writeback", lambda: lambda _, *part: asked.append(part))
    with FileWriter(tmp_path / "target", hashing=False) as out:
        out.write(b"12345")
        out.start_writeback()
        out.write(b"678")
        out.start_writeback()
    assert asked == [(0, 5), (5, 3)]
    assert (tmp_path / "target").read_bytes() == b"12345678"
    monkeypatch.undo()
    with FileWriter(tmp_path / "real", hashing=False) as out:
        out.write(DATA)
        out.start_writeback()
    assert (tmp_path / "real").read_bytes() == DATA
