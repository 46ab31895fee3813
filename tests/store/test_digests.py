"""Digests of blocks: the same whoever takes them, in whatever number of threads."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.store import digests
from rekindle.store.digests import block_count, digests_of_file


def plainly(data, block_bytes):
    return [hashlib.sha256(data[at : at + block_bytes]).hexdigest() for at in range(0, len(data), block_bytes)]


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    path = tmp_path_factory.mktemp("digests") / "file"

    def write(data):
        path.write_bytes(data)
        return os.open(path, os.O_RDONLY)

    return write


@given(data=st.binary(max_size=300), block_bytes=st.integers(1, 400), keep=st.booleans(), anywhere=st.booleans())
def test_they_are_those_of_the_bytes_cut_in_pieces(file_of, data, block_bytes, keep, anywhere):
    fd = file_of(data)
    into = bytearray(len(data)) if keep else None
    before = digests._READS_ANYWHERE
    digests._READS_ANYWHERE = anywhere and before
    try:
        found = digests_of_file(fd, len(data), block_bytes, None if into is None else memoryview(into))
    finally:
        digests._READS_ANYWHERE = before
        os.close(fd)
    assert found == plainly(data, block_bytes)
    assert len(found) == block_count(len(data), block_bytes)
    assert into is None or into == data


def test_blocks_of_many_reads_and_many_threads(file_of):
    data = os.urandom(9 * 1024**2 + 17)
    fd = file_of(data)
    try:
        assert digests_of_file(fd, len(data), 3 * 1024**2) == plainly(data, 3 * 1024**2)
    finally:
        os.close(fd)


def test_of_a_file_that_ended_earlier_no_digest_is_that_of_the_whole(file_of):
    fd = file_of(b"abc")
    try:
        assert digests_of_file(fd, 6, 2) == plainly(b"abc", 2) + plainly(b"", 1) + [hashlib.sha256().hexdigest()]
    finally:
        os.close(fd)
