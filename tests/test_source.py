"""Ranges of a file: exact, checked, and never blocking."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rekindle.errors import UnreadableFile
from rekindle.source import BufferBytes, ByteRange, MemorySource, NearReader, Source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    return tmp_path / "file"


def test_a_read_gives_exactly_what_was_asked_for(path: Path):
    with Source(path) as source:
        assert source.size == 100
        assert source.read(10, 5) == bytes(range(10, 15))
        assert source.read(100, 0) == b""
        assert source.head(1000) == bytes(range(100))


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (100, 1), (-1, 1), (0, -1), (2**63, 2**63)])
def test_a_range_outside_the_file_is_refused(path: Path, offset: int, length: int):
    with Source(path) as source:
        for call in (source.read, source.range):
            with pytest.raises(UnreadableFile, match="the file has 100"):
                call(offset, length)


def test_a_range_streams_in_pieces_and_has_parts(path: Path):
    with Source(path) as source:
        part = source.range(10, 50)
        assert [bytes(piece) for piece in part.chunks(20)] == [
            bytes(range(10, 30)),
            bytes(range(30, 50)),
            bytes(range(50, 60)),
        ]
        assert part.sub(5, 2).read() == bytes([15, 16])
        with pytest.raises(UnreadableFile):
            part.sub(49, 2)


def test_a_file_that_shrinks_while_it_is_read_is_said(path: Path):
    with Source(path) as source:
        path.write_bytes(b"short")
        with pytest.raises(UnreadableFile, match="became shorter"):
            source.read(0, 100)


def test_a_folder_and_a_pipe_are_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        with pytest.raises(UnreadableFile, match="not a regular file"):
            Source(tmp_path / name)


def test_a_link_is_followed_only_where_it_may_be(path: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(path)
    with Source(tmp_path / "link") as source:
        assert source.size == 100
    with pytest.raises(OSError, match="symbolic links"):
        Source(tmp_path / "link", follow=False)


def test_closing_twice_is_harmless(path: Path):
    source = Source(path)
    source.close()
    source.close()


def test_bytes_in_memory_are_read_as_a_file_is():
    source = MemorySource(bytes(range(20)), "inside")
    assert source.read(3, 2) == b"\3\4"
    assert source.head(2) == b"\0\1"
    view = source.range(5, 5)
    assert isinstance(view, BufferBytes)
    assert b"".join(map(bytes, view.chunks(2))) == bytes(range(5, 10))
    for call in (source.read, source.range):
        with pytest.raises(UnreadableFile, match="inside: bytes 19 to 21"):
            call(19, 2)


def test_a_range_fills_a_view(path: Path):
    with Source(path) as source:
        room = bytearray(4)
        ByteRange(source, 6, 4).read_into(memoryview(room))
        assert room == bytes([6, 7, 8, 9])


class Counting(MemorySource):
    def __init__(self, data: bytes) -> None:
        super().__init__(data, "counted")
        self.reads: list[int] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append(length)
        return super().read(offset, length)


@pytest.mark.parametrize(("step", "most"), [(64, 60), (100_000, 40)])
def test_close_reads_are_done_together_and_far_ones_alone(step: int, most: int):
    data = bytes(index % 251 for index in range(4_000_000))
    source = Counting(data)
    reader = NearReader(source)
    offsets = range(0, len(data) - 30, step)
    assert all(reader.read(at, 30) == data[at : at + 30] for at in offsets)
    assert len(source.reads) <= most
    assert sum(source.reads) < (2 * len(data) if step == 64 else 31 * len(offsets))


def test_a_near_read_behind_the_end_is_refused():
    reader = NearReader(MemorySource(bytes(100), "short"))
    assert reader.read(90, 10) == bytes(10)
    with pytest.raises(UnreadableFile):
        reader.read(95, 10)
