"""gather: a tensor's elements in order, whatever its stride."""

import hashlib
import random
import subprocess
import sys

import pytest
import torch
from alike import bits
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.errors import UnreadableFile
from rekindle.gather import BLOCK_BYTES, gather, gather_elements, part_of
from rekindle.source import BufferBytes, ByteRange, Source
from rekindle.tensors import Storage, TensorEntry


def storage_of(tensor, byteorder="little"):
    flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    raw = flat.numpy().tobytes()
    if byteorder == "big":
        itemsize = tensor.dtype.itemsize // (2 if tensor.dtype.is_complex else 1)
        raw = b"".join(raw[at : at + itemsize][::-1] for at in range(0, len(raw), itemsize))
    return Storage("0", len(raw), BufferBytes(memoryview(raw)), "cpu", byteorder)


def collected(tensor, byteorder="little", chunk_bytes=8 * 1024**2):
    data = gather_elements(
        storage_of(tensor, byteorder),
        str(tensor.dtype)[6:],
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        conj=tensor.is_conj(),
        neg=tensor.is_neg(),
    )
    chunks = [bytes(chunk) for chunk in data.chunks(chunk_bytes)]
    assert all(len(chunk) <= chunk_bytes for chunk in chunks)
    assert sum(map(len, chunks)) == data.size
    return b"".join(chunks)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(("little", "big")))
def test_any_view_gives_its_elements_in_order(seed, byteorder):
    rng = random.Random(seed)
    dtype = rng.choice((torch.float32, torch.int8, torch.bfloat16, torch.float64, torch.complex64, torch.complex128))
    shape = [rng.randint(1, 6) for _ in range(rng.randint(0, 5))]
    view = torch.randn(shape, dtype=dtype) if dtype.is_complex else torch.randn(shape).to(dtype)
    view = view.permute(rng.sample(range(len(shape)), len(shape)))
    view = view[tuple(slice(rng.randint(0, 1), None, rng.randint(1, 2)) for _ in shape)] if shape else view
    if rng.random() < 0.3:
        view = view.unsqueeze(0).expand(rng.randint(1, 4), *view.shape)
    if dtype.is_complex:
        view = rng.choice((view, view.conj(), view.conj().imag))
    assert collected(view, byteorder, rng.choice((16, 64, 1000, 2**20))) == bits(view)


@pytest.mark.parametrize(
    "view",
    [
        torch.arange(3000 * 2500, dtype=torch.int32).reshape(3000, 2500).t(),
        torch.arange(64 * 64 * 64 * 32, dtype=torch.int16).reshape(64, 64, 64, 32).permute(3, 1, 2, 0),
        torch.arange(2**23, dtype=torch.int32)[::2],
        torch.arange(3000, dtype=torch.int64).unsqueeze(1).expand(3000, 1100),
        torch.arange(1300 * 1300.0).to(torch.complex128).reshape(1300, 1300).t(),
    ],
    ids=["transposed", "permuted", "every other", "expanded", "complex128"],
)
def test_tensors_larger_than_a_block_are_collected_block_by_block(view):
    assert view.numel() * view.dtype.itemsize > BLOCK_BYTES / 2
    assert hashlib.sha256(collected(view)).digest() == hashlib.sha256(bits(view)).digest()


def test_contiguous_elements_are_the_range_of_the_file_itself(tmp_path):
    path = tmp_path / "raw"
    path.write_bytes(bytes(range(64)))
    with Source(path) as source:
        whole = source.range(0, 64)
        entry = TensorEntry("w", "float32", (2, 3), (3, 1), 4, Storage("0", 64, whole))
        assert gather(entry) == ByteRange(source, 16, 24)
        assert gather(TensorEntry("all", "float32", (16,), (1,), 0, Storage("0", 64, whole))) is whole


def test_no_elements_need_no_bytes():
    assert gather(TensorEntry("none", "float32", (2, 0), (1, 1), 0, Storage("0", 0, None))).size == 0


@pytest.mark.parametrize(
    ("offset", "shape", "stride"), [(3, (2,), (1,)), (0, (2, 3), (3, 1)), (-1, (1,), (1,)), (0, (2,), (4,))]
)
def test_elements_outside_the_storage_are_refused(offset, shape, stride):
    storage = Storage("7", 16, BufferBytes(memoryview(bytes(16))))
    with pytest.raises(UnreadableFile, match="storage 7, which has 16"):
        gather_elements(storage, "float32", offset, shape, stride)


def test_a_storage_without_bytes_is_refused():
    with pytest.raises(UnreadableFile, match="w: its storage 7 has no bytes"):
        gather_elements(Storage("7", 16, None), "float32", 0, (4,), (1,), name="w")


class OnlyAStream:
    """What a compressed record is: bytes that come from start to end."""

    def __init__(self, data):
        self.size = len(data)
        self._data = data

    def chunks(self, _=1024):
        yield from (memoryview(self._data)[at : at + 7] for at in range(0, self.size, 7))


def test_what_can_only_be_streamed_is_collected_too():
    tensor = torch.arange(60.0).reshape(6, 10)
    raw = OnlyAStream(bits(tensor))
    transposed = gather_elements(Storage("0", raw.size, raw), "float32", 0, (10, 6), (1, 10))
    assert b"".join(transposed.chunks()) == bits(tensor.t())
    assert b"".join(part_of(raw, 20, 33).chunks()) == bits(tensor)[20:53]


MEMORY = """
import sys
from rekindle.gather import gather_elements
from rekindle.source import Source
from rekindle.tensors import Storage
rows, columns = 9000, 9000
with Source(sys.argv[1]) as source:
    storage = Storage("0", source.size, source.range(0, source.size))
    data = gather_elements(storage, "float32", 0, (columns, rows), (1, columns))
    total = sum(len(chunk) for chunk in data.chunks())
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(total, int(peak) // 1024)
"""


def test_a_transposed_tensor_of_324_mb_is_collected_in_80_mb(tmp_path):
    path = tmp_path / "raw"
    with path.open("wb") as out:
        out.truncate(9000 * 9000 * 4)  # a hole: no disk is needed
    out = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True).stdout
    total, megabytes = map(int, out.split())
    assert total == 9000 * 9000 * 4
    assert megabytes < 80
