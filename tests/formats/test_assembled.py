"""Tensors put together from boxes and runs: equal to the whole, whatever the cuts, in bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.errors import UnreadableFile
from rekindle.formats import _assembled
from rekindle.formats._assembled import Assembled, Box, Concatenated, check_tiling
from rekindle.source import BufferBytes


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def box_of(whole: torch.Tensor, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Box:
    part = whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]

    def read(start: tuple[int, ...], shape: tuple[int, ...]) -> BufferBytes:
        inside = part[tuple(slice(o, o + s) for o, s in zip(start, shape, strict=True))]
        return BufferBytes(memoryview(as_bytes(inside)))

    return Box(offsets, sizes, read)


def unread(start: tuple[int, ...], shape: tuple[int, ...]) -> BufferBytes:
    raise AssertionError("checking must not read")


def three_bytes(start: tuple[int, ...], shape: tuple[int, ...]) -> BufferBytes:
    return BufferBytes(memoryview(bytes(3)))


def grid(whole: torch.Tensor, cuts: list[list[int]]) -> list[Box]:
    """Return the boxes between the cuts of each axis."""
    boxes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for size, inner in zip(whole.shape, cuts, strict=True):
        edges = [0, *inner, size]
        boxes = [((*o, a), (*s, b - a)) for o, s in boxes for a, b in pairwise(edges) if b > a]
    return [box_of(whole, o, s) for o, s in boxes]


def joined(assembled: Assembled, chunk_bytes: int = 1000) -> bytes:
    pieces = [bytes(piece) for piece in assembled.chunks(chunk_bytes)]
    assert all(0 < len(piece) <= chunk_bytes for piece in pieces)
    return b"".join(pieces)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_boxes_in_any_order_give_the_whole(data: st.DataObject):
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from([torch.uint8, torch.int16, torch.float32, torch.float64, torch.complex128]))
    whole = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    cuts = [sorted(data.draw(st.sets(st.integers(0, size), max_size=3))) for size in shape]
    boxes = data.draw(st.permutations(grid(whole, cuts)))
    band = data.draw(st.sampled_from([16, 64, 1000, 10**6]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_assembled, "BAND_BYTES", band)
        assert check_tiling(tuple(shape), boxes) == ""
        assembled = Assembled(tuple(shape), dtype.itemsize, tuple(boxes))
        assert assembled.size == len(as_bytes(whole))
        assert joined(assembled) == as_bytes(whole)


def test_an_irregular_tiling_is_fine_too():
    whole = torch.arange(36).reshape(6, 6)
    boxes = [
        box_of(whole, (0, 0), (2, 4)),
        box_of(whole, (0, 4), (4, 2)),
        box_of(whole, (2, 0), (4, 2)),
        box_of(whole, (4, 2), (2, 4)),
        box_of(whole, (2, 2), (2, 2)),
    ]
    assert check_tiling((6, 6), boxes) == ""
    assert joined(Assembled((6, 6), 8, tuple(boxes))) == as_bytes(whole)


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([((0, 0), (2, 4))], "8 of 16"),
        ([((0, 0), (4, 4)), ((0, 0), (1, 1))], "overlap"),
        ([((0, 0), (3, 4)), ((2, 0), (1, 4))], "overlap"),
        ([((0, 0), (2, 4)), ((2, 1), (2, 4))], "reaches out"),
        ([((0, 0), (2, 4)), ((2,), (2,))], "dimensions"),
        ([((0, 0), (4, 4)), ((-1, 0), (0, 4))], "reaches out"),
    ],
)
def test_boxes_that_do_not_tile_are_named(boxes: list, said: str):
    made = [Box(offsets, sizes, unread) for offsets, sizes in boxes]
    assert said in check_tiling((4, 4), made)


def test_a_shape_of_astronomical_size_costs_nothing_to_check():
    huge = (2**31, 2**31)
    nothing = Box((0, 0), huge, unread)
    halves = [
        Box((0, 0), (2**30, 2**31), nothing.read),
        Box((2**30, 0), (2**30, 2**31), nothing.read),
    ]
    assert check_tiling(huge, [nothing]) == ""
    assert check_tiling(huge, halves) == ""


def test_cuts_too_irregular_to_check_are_said_to_be_so():
    # Squares of a diagonal and thousands of slivers beside them: the grid of their cuts has millions of cells.
    boxes = [Box((0, i), (4000, 1), unread) for i in range(2000)]
    boxes += [Box((i, 2000), (1, 2000), unread) for i in range(4000)]
    assert "too irregularly" in check_tiling((4000, 4000), boxes)


def test_a_piece_of_another_size_than_was_said_is_an_error():
    box = Box((0,), (4,), three_bytes)
    with pytest.raises(UnreadableFile, match="3 bytes where 16 are needed"):
        joined(Assembled((4,), 4, (box,)))


def test_memory_stays_below_a_few_bands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_assembled, "BAND_BYTES", 1024**2)
    rows, columns = 4096, 4096  # 64 MiB of float32 in two halves side by side

    def read(start: tuple[int, ...], shape: tuple[int, ...]) -> BufferBytes:
        return BufferBytes(memoryview(bytes(shape[0] * shape[1] * 4)))

    half = columns // 2
    assembled = Assembled((rows, columns), 4, (Box((0, 0), (rows, half), read), Box((0, half), (rows, half), read)))
    tracemalloc.start()
    total = sum(len(chunk) for chunk in assembled.chunks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == rows * columns * 4
    assert peak < 6 * 1024**2


def test_runs_one_after_another_are_one_run():
    parts = [random.Random(seed).randbytes(seed * 10) for seed in range(5)]
    whole = Concatenated(tuple(BufferBytes(memoryview(part)) for part in parts))
    assert whole.size == sum(map(len, parts))
    assert b"".join(bytes(piece) for piece in whole.chunks(7)) == b"".join(parts)
