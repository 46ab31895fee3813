"""Windows into files, and pools of files of which few are open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rekindle.errors import UnreadableFile
from rekindle.formats._sources import Pool, WindowSource, at_base
from rekindle.source import ByteRange, Source


def test_a_window_is_a_file_of_its_own(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with Source(path) as base:
        window = WindowSource(base, 2, 5, "the middle")
        assert (window.size, window.head(3), window.read(1, 4)) == (5, b"234", b"3456")
        into = bytearray(2)
        window.read_into(3, memoryview(into))
        assert into == b"56"
        for offset, length in ((4, 2), (-1, 1), (0, 6)):
            with pytest.raises(UnreadableFile, match="the middle"):
                window.read(offset, length)
        with pytest.raises(UnreadableFile):
            window.read_into(4, memoryview(bytearray(2)))
        with pytest.raises(UnreadableFile):
            WindowSource(base, 8, 3, "beyond the end")
        with pytest.raises(OSError, match="the middle"):
            window.fileno()


def test_ranges_of_windows_of_windows_become_ranges_of_the_file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with Source(path) as base:
        inner = WindowSource(WindowSource(base, 10, 80, "outer"), 20, 40, "inner")
        found = at_base(inner.range(5, 7))
        assert found == ByteRange(base, 35, 7)
        assert found.read() == bytes(range(35, 42))


def test_a_pool_keeps_few_files_open_and_reads_them_all(tmp_path: Path):
    pool = Pool(open_files=3)
    for number in range(10):
        (tmp_path / str(number)).write_bytes(str(number).encode() * 4)
    sources = [pool.source(str(tmp_path / str(number))) for number in range(10)]
    assert sources[0] is pool.source(str(tmp_path / "0"))
    assert pool.size_bytes == 40
    for _ in range(2):
        for number, source in enumerate(sources):
            assert source.read(1, 2) == str(number).encode() * 2
            into = bytearray(4)
            source.read_into(0, memoryview(into))
            assert into == str(number).encode() * 4
            assert os.fstat(source.fileno()).st_size == 4
            assert sum(source._fd >= 0 for source in sources) <= 3
    pool.close()
    assert all(source._fd < 0 for source in sources)
    with pytest.raises(ValueError, match="closed"):
        sources[0].read(0, 1)


def test_a_file_that_was_replaced_while_it_was_closed_is_not_read(tmp_path: Path):
    pool = Pool(open_files=1)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"first")
    first = pool.source(str(tmp_path / "a"))
    pool.source(str(tmp_path / "b"))
    (tmp_path / "new").write_bytes(b"other")
    os.replace(tmp_path / "new", tmp_path / "a")
    with pytest.raises(UnreadableFile, match="replaced or changed"):
        first.read(0, 5)
    pool.close()
