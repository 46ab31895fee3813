"""For any length and key: no two positions share a sample, and both forms of the order agree."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.run.order import MAX_LENGTH, index_at, indices, make_order

KEYS = st.integers(0, 2**64 - 1)


@given(length=st.integers(0, 3_000), key=KEYS)
@settings(max_examples=60, deadline=None)
def test_the_whole_order_is_a_permutation(length, key):
    assert sorted(indices(make_order(length, key), 0, length).tolist()) == list(range(length))


@given(length=st.integers(1, MAX_LENGTH), key=KEYS, data=st.data())
@settings(max_examples=100, deadline=None)
def test_positions_far_apart_never_meet(length, key, data):
    order = make_order(length, key)
    positions = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=8, unique=True))
    samples = [index_at(order, position) for position in positions]
    assert len(set(samples)) == len(samples)
    assert all(0 <= sample < length for sample in samples)
    assert samples == [int(indices(order, position, 1)) for position in positions]
