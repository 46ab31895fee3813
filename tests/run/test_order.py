"""The order of samples: a permutation that is a function."""

from __future__ import annotations

import collections
import itertools
import math

import pytest
import torch

from rekindle.run.order import MAX_LENGTH, index_at, indices, make_order, walk


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 97, 1_000, 65_535, 65_536, 70_001])
def test_every_sample_comes_exactly_once(length):
    order = make_order(length, 11)
    samples = torch.cat([torch.empty(0, dtype=torch.int64), *walk(order)])
    assert sorted(samples.tolist()) == list(range(length))


@pytest.mark.parametrize("length", [1, 2, 5, 1_000, 65_536, 10**6, 10**12, MAX_LENGTH])
def test_one_position_and_many_positions_give_the_same_numbers(length):
    order = make_order(length, 2**63 + 5)
    for start in {0, length // 3, max(0, length - 9)}:
        block = indices(order, start, 9).tolist()
        assert block == [index_at(order, position) for position in range(start, min(length, start + 9))]
        assert all(0 <= sample < length for sample in block)


def test_an_order_goes_on_from_any_position():
    order = make_order(40_000, 3)
    whole = torch.cat(list(walk(order)))
    for start in (1, 255, 256, 20_000, 39_999):
        assert torch.equal(torch.cat(list(walk(order, start))), whole[start:])
    assert list(walk(order, 40_000)) == []


def test_another_key_is_another_order():
    first = indices(make_order(1_000, 1), 0, 1_000)
    second = indices(make_order(1_000, 2), 0, 1_000)
    assert int((first == second).sum()) < 10


def test_without_shuffling_the_order_is_the_identity():
    order = make_order(50, 1, shuffle=False)
    assert indices(order, 10, 100).tolist() == list(range(10, 50))
    assert index_at(order, 49) == 49


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_small_orders_are_uniform_over_their_permutations(length):
    """Chi-squared over all permutations, six standard deviations wide."""
    count = 100 * math.factorial(length)
    seen = collections.Counter(
        tuple(index_at(order, i) for i in range(length)) for order in (make_order(length, key) for key in range(count))
    )
    chi = sum((seen[p] - 100) ** 2 / 100 for p in itertools.permutations(range(length)))
    degrees = math.factorial(length) - 1
    assert abs(chi - degrees) < 6 * math.sqrt(2 * degrees) + 1


def test_neighbours_are_not_neighbours_any_more():
    """The difference of neighbouring samples has the mean of a random permutation, a third of the length."""
    samples = indices(make_order(100_000, 4), 0, 100_000).double()
    assert abs((samples.diff().abs().mean() / 100_000).item() - 1 / 3) < 0.005


@pytest.mark.parametrize("length", [-1, MAX_LENGTH + 1])
def test_a_length_out_of_range_is_refused(length):
    with pytest.raises(ValueError, match=str(length)):
        make_order(length, 0)


def test_a_position_outside_is_refused():
    with pytest.raises(IndexError, match="position 5 of 5"):
        index_at(make_order(5, 0), 5)


def test_an_order_never_changes_between_versions():
    """A run may be resumed by a later version, in the middle of an epoch."""
    assert indices(make_order(1_000, 5), 0, 4).tolist() == [990, 775, 798, 909]
    assert index_at(make_order(10**12, 5), 0) == 97022666756
    assert index_at(make_order(10**12, 5), 10**11) == 869416538860
