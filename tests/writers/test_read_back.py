"""Reading a file back while it is written: the checksums are those of the file, piece by piece."""

import errno
from zlib import crc32

import pytest

from rekindle.writers import read_back
from rekindle.writers.read_back import ReadBack


def crcs_of(path, pieces):
    back = ReadBack(str(path))
    try:
        for piece in pieces:
            back.add(*piece)
        back.finish()
    finally:
        back.close()
    return back.crcs


def test_the_pieces_of_a_span_make_one_checksum_whatever_their_sizes(tmp_path):
    data = bytes(range(256)) * 4096
    (tmp_path / "file").write_bytes(data)
    sizes = (1, 70_000, 0, 400_000, 262_144, 3, len(data) - 732_148)
    pieces, at = [], 0
    for size in sizes:
        pieces.append((0, at, size))
        at += size
    assert at == len(data)
    assert crcs_of(tmp_path / "file", pieces) == {0: crc32(data)}


def test_spans_with_gaps_between_them_have_their_own_checksums(tmp_path):
    data = bytes(range(256)) * 64
    (tmp_path / "file").write_bytes(data)
    spans = [(at, at, 100) for at in range(16, len(data) - 200, 300)]
    found = crcs_of(tmp_path / "file", spans)
    assert found == {at: crc32(data[at : at + 100]) for at, _, _ in spans}
    assert len(found) > 50


def test_many_small_pieces_are_read_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(bytes(100_000))
    reads = []
    real = ReadBack._fill
    monkeypatch.setattr(ReadBack, "_fill", lambda self, *place: (reads.append(place), real(self, *place)))
    crcs_of(tmp_path / "file", [(at, at, 10) for at in range(0, 100_000, 20)])
    assert len(reads) == 1
    monkeypatch.setattr(read_back, "_WINDOW_BYTES", 1000)
    crcs_of(tmp_path / "file", [(at, at, 10) for at in range(0, 100_000, 20)])
    assert len(reads) == 101


def test_a_file_that_is_shorter_than_what_was_written_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(bytes(99))
    with pytest.raises(OSError, match="shorter than what was written") as caught:
        crcs_of(tmp_path / "file", [(0, 0, 100)])
    assert caught.value.errno == errno.EIO
