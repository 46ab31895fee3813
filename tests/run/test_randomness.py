"""Keys and seeds: functions of the place, and nothing else."""

# ruff: noqa: NPY002 - NumPy's legacy global generator is what data sets draw from

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from rekindle.run.randomness import key_of, preserved, sample_key, seed_all, seed_globals, seed_sample


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_key_gives_the_same_draws_whatever_was_drawn_before():
    for seed in (seed_sample, seed_globals, seed_all):
        seed(12345678901234567890)
        first = drawn()
        torch.randn(7), np.random.randn(3), random.gauss(0, 1)
        seed(12345678901234567890)
        assert drawn() == first


@pytest.mark.parametrize("key", [0, 1, 2**32 + 5, 2**64 - 1])
def test_seeding_the_quick_way_is_what_the_libraries_own_calls_do(key):
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.manual_seed(key)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    for seed in (seed_globals, seed_sample):
        random.gauss(0, 1), np.random.randn(), torch.randn(())
        seed(key)
        assert random.getstate() == states[0]
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
        assert torch.equal(torch.get_rng_state(), states[2])


def test_a_normal_draw_that_was_kept_back_does_not_survive_seeding():
    """Generators make normal numbers in pairs; the second one must not leak over a border."""
    seed_globals(1)
    expected = random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))
    random.gauss(0, 1), np.random.randn(), torch.randn(())
    seed_globals(1)
    assert (random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))) == expected


def test_places_that_add_up_to_the_same_do_not_share_a_key():
    places = list(itertools.product(range(12), repeat=3))
    assert len({key_of(7, "batch", *place) for place in places}) == len(places)
    assert len({sample_key(a, b) for a, b in itertools.product(range(50), repeat=2)}) == 2500


def test_purpose_and_number_of_places_matter():
    assert len({key_of(0, "a"), key_of(0, "b"), key_of(0, "a", 0), key_of(0, "a", 0, 0), key_of(1, "a")}) == 5


def test_keys_never_change_between_versions():
    """A run may be resumed by a later version: these numbers are part of the format."""
    assert key_of(5, "pass", 1, 0) == 11197182850336762659
    assert sample_key(5, 7) == 10276283080878523536


def test_preserved_leaves_no_trace():
    seed_globals(3)
    expected = drawn()
    seed_globals(3)
    with preserved():
        drawn()
        seed_sample(99)
    assert drawn() == expected
