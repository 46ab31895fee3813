"""The thread between a writer and its file: every byte once, in order, and no error kept to itself."""

import errno
import os
from zlib import crc32

import pytest

from rekindle.errors import UnreadableFile
from rekindle.source import Source
from rekindle.store.atomic import FileWriter
from rekindle.writers.pipe import Lent, Pipe, Span

DATA = os.urandom(3_000_001)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").write_bytes(DATA)
    with Source(tmp_path / "source") as opened:
        yield opened.range(0, len(DATA))


def test_pieces_of_any_size_arrive_in_order(tmp_path):
    pieces = [DATA[at : at + size] for at, size in ((0, 10), (10, 0), (10, 2_000_000), (2_000_010, 1_000_001 - 10))]
    told = []
    with FileWriter(tmp_path / "file", hashing=False) as out, Pipe(out, told.append) as pipe:
        for piece in pieces:
            pipe.write(piece)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)
    assert told == [10, 10, 2_000_010, 3_000_001]
    assert pipe.crcs == {}  # nobody asked


def test_a_buffer_that_its_owner_fills_again_is_copied(tmp_path):
    buffer = bytearray(1000)
    with FileWriter(tmp_path / "file", hashing=False) as out, Pipe(out) as pipe:
        for number in range(200):
            buffer[:] = bytes([number]) * 1000
            pipe.write(buffer)
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([number]) * 1000 for number in range(200))


def test_a_range_of_a_file_passes_through_the_buffers_of_the_pipe(tmp_path, source):
    with FileWriter(tmp_path / "file", hashing=False) as out, Pipe(out) as pipe:
        pipe.write(b"head")
        for _ in range(8):  # more bytes than the buffers hold together
            for piece in Lent(source, pipe).chunks():
                assert len(piece) <= 256 * 1024
                pipe.write(piece)
    assert (tmp_path / "file").read_bytes() == b"head" + DATA * 8


def test_spans_are_read_back_from_the_file_and_what_lies_between_them_is_not(tmp_path, source):
    with FileWriter(tmp_path / "file", hashing=False) as out, Pipe(out, read_back=True) as pipe:
        pipe.write(b"head")
        for data in (source, source.sub(5, 7)):
            for piece in Span(Lent(data, pipe), pipe).chunks():
                pipe.write(piece)
            pipe.write(b"between")
    assert pipe.crcs == {4: crc32(DATA), 4 + len(DATA) + 7: crc32(DATA[5:12])}


def test_what_the_file_gives_back_counts_not_what_was_handed_over(tmp_path, source, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(len(data))))
    with FileWriter(tmp_path / "file", hashing=False) as out, Pipe(out, read_back=True) as pipe:
        for piece in Span(Lent(source, pipe), pipe).chunks():
            pipe.write(piece)
    assert pipe.crcs == {0: crc32(bytes(len(DATA)))}


def write_through(pipe, data, times=1):
    with pipe:
        for _ in range(times):
            for piece in Span(Lent(data, pipe), pipe).chunks():
                pipe.write(piece)


@pytest.mark.parametrize("read_back", [False, True])
def test_an_error_of_the_disk_is_raised_and_nobody_waits_for_ever(tmp_path, source, monkeypatch, read_back):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    out = FileWriter(tmp_path / "file", hashing=False)
    with pytest.raises(OSError, match="No space left"):
        write_through(Pipe(out, read_back=read_back), source, times=8)
    out.abandon()


def test_an_error_of_the_reading_back_is_raised_too(tmp_path, source, monkeypatch):
    monkeypatch.setattr(os, "write", lambda _, data: len(data))  # claims to have written
    out = FileWriter(tmp_path / "file", hashing=False)
    with pytest.raises(OSError, match="shorter than what was written"):
        write_through(Pipe(out, read_back=True), source)
    out.abandon()


def test_an_error_of_the_reading_comes_out_as_it_is(tmp_path, source):
    os.truncate(tmp_path / "source", 1_000_000)
    out = FileWriter(tmp_path / "file", hashing=False)
    with pytest.raises(UnreadableFile, match="the file became shorter while it was read"):
        write_through(Pipe(out, read_back=True), source)
    out.abandon()
