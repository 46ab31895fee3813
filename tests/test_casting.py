"""casting: the values that torch gives, in pieces of any size, in small memory."""

import pytest
import torch

from rekindle.casting import FLOATS, TARGETS, Cast, Tally, as_numbers, whole_elements
from rekindle.errors import CannotWrite
from rekindle.source import BufferBytes


class Pieces:
    """Bytes that come in pieces of a few, which cut elements."""

    def __init__(self, data, length):
        self.data, self.length = data, length

    @property
    def size(self):
        return len(self.data)

    def chunks(self, _chunk_bytes=0):
        for at in range(0, len(self.data), self.length):
            yield memoryview(self.data)[at : at + self.length]


def every_value(name):
    """Return all elements of a type of 8 or 16 bits, and a spread of the bit patterns of wider ones."""
    dtype = getattr(torch, name)
    if dtype.itemsize == 1:
        return torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype)
    if dtype.itemsize == 2:
        return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    torch.manual_seed(0)
    if dtype.itemsize == 4:
        return torch.randint(-(2**31), 2**31, (100_000,)).to(torch.int32).view(dtype)
    ties = torch.tensor([1 + 2.0**-9, 1 + 2.0**-9 + 2.0**-40, 65519.999999999, 2.0**-25, 1e39, -1e300, 5e-324, 0.0])
    return torch.cat([torch.randint(-(2**63), 2**63 - 1, (50_000,)).view(dtype), ties.to(dtype)])


def raw(tensor):
    return bytes(tensor.contiguous().view(torch.uint8).numpy())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", FLOATS)
def test_every_value_becomes_what_torch_makes_of_it(source, target):
    tensor = every_value(source)
    cast = Cast(BufferBytes(memoryview(raw(tensor))), source, target, Tally())
    made = b"".join(bytes(piece) for piece in cast.chunks())
    assert len(made) == cast.size
    expected = tensor.to(getattr(torch, target))
    found = torch.frombuffer(bytearray(made), dtype=expected.dtype)
    nan = expected.isnan()
    assert torch.equal(found.isnan(), nan)
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
    assert torch.equal(found.view(width)[~nan], expected.view(width)[~nan])


@pytest.mark.parametrize("target", ["float8_e4m3fn", "float8_e5m2"])
def test_numbers_around_every_edge_of_an_8_bit_type_are_rounded_as_torch_does(target):
    values = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(getattr(torch, target)).float()
    values = values[values.isfinite()].sort().values
    middles = (values[1:] + values[:-1]) / 2  # the ties, and the numbers next to them and to the values
    beyond = torch.tensor([464.0, 480.0, 61440.0, 65536.0, 1e38, torch.inf, -torch.inf])
    edges = torch.cat([values, middles, beyond])
    near = torch.cat([edges, edges.nextafter(torch.tensor(torch.inf)), edges.nextafter(torch.tensor(-torch.inf))])
    for tensor in (near, near.double(), near.double() * (1 + 2.0**-40)):
        source = str(tensor.dtype).removeprefix("torch.")
        cast = Cast(BufferBytes(memoryview(raw(tensor))), source, target, Tally())
        made = b"".join(bytes(piece) for piece in cast.chunks())
        assert made == raw(tensor.to(getattr(torch, target)))


def test_what_has_no_infinity_takes_its_largest_value_and_that_is_counted():
    tally = Tally()
    tensor = torch.tensor([1.0, 464.0, 465.0, -1e9, torch.inf, torch.nan, 1e-9])
    list(Cast(BufferBytes(memoryview(raw(tensor))), "float32", "float8_e4m3fn", tally).chunks())
    assert (tally.overflowed, tally.vanished) == (3, 1)


@pytest.mark.parametrize("length", [1, 3, 7, 4096])
def test_pieces_that_cut_elements_give_the_same(length):
    data = raw(torch.randn(1000))
    whole = b"".join(Cast(BufferBytes(memoryview(data)), "float32", "bfloat16", Tally()).chunks())
    pieces = list(Cast(Pieces(data, length), "float32", "bfloat16", Tally()).chunks(64))
    assert b"".join(pieces) == whole
    assert max(map(len, pieces)) <= 64


def test_a_part_is_cast_without_what_lies_before_it():
    tensor = torch.randn(100)
    cast = Cast(BufferBytes(memoryview(raw(tensor))), "float32", "float16", Tally())
    assert b"".join(cast.sub(20, 40).chunks()) == raw(tensor.half())[20:60]


def test_what_goes_out_of_range_is_counted():
    tally = Tally()
    data = raw(torch.tensor([1e6, -1e6, float("inf"), 1e-12, 0.0, float("nan"), 1.0]))
    list(Cast(BufferBytes(memoryview(data)), "float32", "float16", tally).chunks())
    assert (tally.overflowed, tally.vanished) == (2, 1)


def test_whole_elements_drop_an_incomplete_one():
    assert [bytes(piece) for piece in whole_elements(Pieces(b"abcdefghij", 3), 4, 1)] == [b"abcd", b"efgh"]


def test_types_without_numbers_are_no_numbers():
    with pytest.raises(KeyError):
        as_numbers(memoryview(b"abcd"), "bits8")


def test_without_numpy_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    with pytest.raises(CannotWrite, match="a cast needs NumPy") as caught:
        list(Cast(BufferBytes(memoryview(bytes(4))), "float32", "float16", Tally()).chunks())
    assert caught.value.do == "pip install numpy"
