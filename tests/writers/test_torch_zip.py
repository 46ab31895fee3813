"""The torch archive: torch, Python's zipfile and torch's own arithmetic all find their way in it."""

import io
import os
import struct
import zipfile
import zlib

import pytest
import torch
from alike import assert_alike
from zoo import complete, load, quiet

from rekindle.errors import CannotWrite
from rekindle.save import tree_of
from rekindle.source import BufferBytes
from rekindle.tensors import Storage
from rekindle.tree import Map, Tensor
from rekindle.writers import torch_zip


def plain(value):
    """Return the zoo without what a plain file refuses: a user's class of dict."""
    found = dict(value)
    found["nested"] = found["nested"][:2]
    return found


def written(obj, path):
    with path.open("wb") as out, quiet():
        torch_zip.write_tree(tree_of(obj), out)
    return path


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("weights_only", [False, True])
def test_torch_loads_every_kind_of_tensor_in_every_way(tmp_path, weights_only, mmap):
    obj = plain(complete())
    path = written(obj, tmp_path / "a.pth")
    with quiet():
        assert_alike(obj, torch.load(path, weights_only=weights_only, mmap=mmap))


def test_torch_finds_no_global_that_it_would_warn_of(tmp_path):
    path = written(plain(complete()), tmp_path / "a.pth")
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []


def test_torchs_shortcut_to_the_storages_agrees(tmp_path):
    obj = {str(size): torch.randn(size) for size in (0, 1, 3, 1000, 5, 0, 17)}
    path = written(obj, tmp_path / "a.pth")
    config = torch.utils.serialization.config.load
    config.calculate_storage_offsets = True
    try:
        assert_alike(obj, torch.load(path, mmap=True))
    finally:
        config.calculate_storage_offsets = False


def test_the_layout_is_torchs_record_for_record(tmp_path):
    obj = {"a": torch.ones(3), "b": torch.ones(5, dtype=torch.int16)}
    ours = written(obj, tmp_path / "archive.pth")
    theirs = tmp_path / "theirs.pth"
    torch.save(obj, theirs)
    with zipfile.ZipFile(ours) as mine, zipfile.ZipFile(theirs) as other:
        assert mine.testzip() is None
        names = [info.filename.partition("/")[2] for info in mine.infolist()]
        assert names == [info.filename.partition("/")[2] for info in other.infolist()]
        for name in (".format_version", ".storage_alignment", "byteorder", "version", "data/0", "data/1"):
            assert mine.read(f"archive/{name}") == other.read(f"theirs/{name}"), name
        for info in mine.infolist():
            assert (info.flag_bits, info.compress_type) == (0x0808, 0)
            start = info.header_offset + 30 + sum(struct.unpack_from("<HH", ours.read_bytes(), info.header_offset + 26))
            assert start % 64 == 0


def combined(crcs):
    seed = 0
    for crc in crcs:
        seed = (seed ^ (crc + 0x9E3779B9 + (seed << 6) + (seed >> 2))) & (2**64 - 1)
    return b"%020d" % seed


@pytest.mark.parametrize("writer", ["ours", "torch's"])
def test_the_fingerprint_covers_the_crc_of_every_record(tmp_path, writer):
    path = tmp_path / "archive.pth"
    if writer == "ours":
        written({"a": torch.randn(100)}, path)
    else:
        torch.save({"a": torch.randn(100)}, path)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        assert infos[-1].filename == "archive/.data/serialization_id"
        assert archive.read(infos[-1])[20:] == combined(info.CRC for info in infos[:-1])


def test_the_same_object_gives_the_same_bytes_under_any_name(tmp_path):
    one = written({"a": torch.ones(3)}, tmp_path / "one.pth")
    two = written({"a": torch.ones(3)}, tmp_path / "two.bin")
    assert one.read_bytes() == two.read_bytes()


def test_a_file_behind_4_gib_has_its_long_fields(tmp_path):
    class Sparse(io.RawIOBase):
        """A file in which zeros are holes."""

        def __init__(self, path):
            self.file = path.open("wb")

        def write(self, data):
            view = memoryview(data)
            if len(view) >= 2**16 and view[:64] == bytes(64):
                self.file.seek(len(view), os.SEEK_CUR)
            else:
                self.file.write(view)

    class Zeros:
        size = 2**32 + 4096

        def chunks(self, _):
            block = bytes(2**26)
            for _ in range(64):
                yield memoryview(block)
            yield memoryview(block)[:4096]

    storage = Storage("big", Zeros.size, Zeros())
    last = Storage("last", 8, BufferBytes(memoryview(struct.pack("<ff", 1.5, 2.5))))
    tree = Map(
        [("big", Tensor(storage, "uint8", 0, (Zeros.size,), (1,))), ("last", Tensor(last, "float32", 0, (2,), (1,)))]
    )
    path = tmp_path / "big.pth"
    out = Sparse(path)
    torch_zip.write_tree(tree, out)
    out.file.close()
    assert path.stat().st_blocks * 512 < 2**26
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/data/1") == struct.pack("<ff", 1.5, 2.5)
        assert archive.getinfo("archive/data/0").file_size == Zeros.size
    config = torch.utils.serialization.config.load
    for shortcut in (False, True):
        config.calculate_storage_offsets = shortcut
        try:
            found = torch.load(path, mmap=True)
        finally:
            config.calculate_storage_offsets = False
        assert found["last"].tolist() == [1.5, 2.5]
        assert found["big"].shape == (Zeros.size,)
        assert found["big"][-1] == 0
    path.unlink()


def test_bytes_that_do_not_come_as_announced_are_an_error(tmp_path):
    class Short:
        size = 8

        def chunks(self, _):
            yield memoryview(bytes(4))

    tree = Tensor(Storage("0", 8, Short()), "float32", 0, (2,), (1,))
    with pytest.raises(ValueError, match="8 bytes were announced, 4 came"):
        torch_zip.write_tree(tree, io.BytesIO())


def test_nothing_is_written_when_something_cannot_be():
    out = io.BytesIO()
    with pytest.raises(CannotWrite):
        torch_zip.write_tree(Tensor(Storage("0", 8, None), "float32", 0, (2,), (1,)), out)
    assert out.getvalue() == b""


def test_torch_notices_a_bit_flipped_in_our_archive_where_zipfile_does(tmp_path):
    path = written({"a": torch.zeros(64)}, tmp_path / "a.pth")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/0")
        assert zlib.crc32(bytes(256)) == info.CRC
    at = data.index(bytes(256))
    data[at + 5] ^= 1
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == "archive/data/0"
    assert load(path) is not None  # torch does not look, which is why convert does
