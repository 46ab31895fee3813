"""`run.loader`: the same batches however they are reached."""

# ruff: noqa: NPY002 - NumPy's legacy global generator is what data sets draw from

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from rekindle.errors import RunError
from rekindle.run.loader import make_loader
from rekindle.run.randomness import seed_globals
from rekindle.run.workers import kill_workers


class Drawing(Dataset):
    """Draws from all three global generators, and says which sample it is."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), torch.rand(2), random.gauss(0, 1)


class Fetching(Drawing):
    """Fetches whole batches."""

    def __getitems__(self, indices):
        return [(index, float(torch.rand(()))) for index in indices]


class Failing(Drawing):
    def __getitem__(self, index):
        raise KeyError(f"no such picture: {index}")


def flat(batches):
    return [[part.tolist() for part in batch] for batch in batches]


def loader(dataset=None, **settings):
    return make_loader(Drawing() if dataset is None else dataset, seed=4, **{"batch_size": 4, **settings})


@pytest.fixture(scope="module")
def expected():
    whole = loader()
    return {epoch: flat(whole.batches(whole.pass_key(epoch, (0,)))) for epoch in range(2)}


@pytest.mark.parametrize(
    "settings",
    [
        {"num_workers": 0},
        {"num_workers": 1},
        pytest.param(
            {"num_workers": 3, "prefetch_factor": 5},
            # torch warns where there are fewer cores
            marks=pytest.mark.filterwarnings("ignore:This DataLoader will create"),
        ),
        {"num_workers": 2, "persistent_workers": False},
    ],
)
def test_the_samples_do_not_depend_on_the_workers(settings, expected):
    one = loader(**settings)
    for epoch in (0, 1):
        random.seed(), torch.manual_seed(int(time.time()))
        assert flat(one.batches(one.pass_key(epoch, (0,)))) == expected[epoch]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 5, 6])
def test_a_pass_goes_on_at_any_batch(start, workers, expected):
    one = loader(num_workers=workers)
    assert flat(one.batches(one.pass_key(1, (0,)), start * one.batch_size)) == expected[1][start:]


def test_epochs_and_loops_have_orders_of_their_own(expected):
    assert expected[0] != expected[1]
    one = loader()
    assert flat(one.batches(one.pass_key(0, (1,)))) != expected[0]
    for epoch in expected.values():
        assert sorted(index for batch in epoch for index in batch[0]) == list(range(23))


@pytest.mark.parametrize("workers", [0, 2])
def test_iterating_directly_repeats_one_pass_and_leaves_the_generators_alone(workers):
    one = loader(num_workers=workers, shuffle=False)
    seed_globals(8)
    expected = random.random(), float(np.random.rand()), torch.rand(3).tolist()
    seed_globals(8)
    first = flat(one)
    assert (random.random(), float(np.random.rand()), torch.rand(3).tolist()) == expected
    assert flat(one) == first
    assert [index for batch in first for index in batch[0]] == list(range(23))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_tensors_come_as_the_default_collate_function_makes_them(workers, drop_last):
    data = TensorDataset(torch.randn(30, 3, 2).transpose(1, 2), torch.arange(30), torch.randn(30, dtype=torch.float64))
    ours = list(loader(data, batch_size=7, shuffle=False, drop_last=drop_last, num_workers=workers))
    torchs = list(DataLoader(data, batch_size=7, drop_last=drop_last))
    assert len(ours) == len(torchs) == len(loader(data, batch_size=7, drop_last=drop_last))
    for mine, theirs in zip(ours, torchs, strict=True):
        assert type(mine) is type(theirs)
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype == b.dtype
            assert a.stride() == b.stride()
            assert torch.equal(a, b)


class Sentences(Dataset):
    """Each of a length of its own."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index):
        return torch.arange(index % 5 + 1), index


def padded(items, fill, length):
    """Collate to `length`, with `fill` where a sentence is over."""
    whole = torch.full((len(items), length), fill)
    for row, (words, _) in enumerate(items):
        whole[row, : len(words)] = words
    return whole, torch.tensor([index for _, index in items])


class Padded:
    def __init__(self, fill, length):
        self.fill, self.length = fill, length

    def __call__(self, items):
        return padded(items, self.fill, self.length)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "collate",
    [partial(padded, fill=-1, length=6), Padded(-1, 6), lambda items: padded(items, -1, 6)],
    ids=["partial", "object", "lambda"],
)
def test_a_collate_function_may_have_parameters(collate, workers):
    context = "fork" if workers else None  # no other can be given a lambda
    one = loader(Sentences(), collate_fn=collate, num_workers=workers, multiprocessing_context=context)
    key = one.pass_key(0, (0,))
    batches = list(one.batches(key))
    assert [tuple(words.shape) for words, _ in batches] == [(4, 6)] * 5 + [(3, 6)]
    for words, indices in batches:
        for row, index in zip(words.tolist(), indices.tolist(), strict=True):
            assert row == [*range(index % 5 + 1), *[-1] * (5 - index % 5)]
    assert flat(one.batches(key, 12)) == flat(batches)[3:]


def test_a_part_of_tensors_comes_like_the_same_part_sample_by_sample():
    part = Subset(TensorDataset(torch.randn(30, 2), torch.arange(30)), [3, 9, 27, 4, 1])
    fast = loader(part, batch_size=2)
    slow = loader(part, batch_size=2, collate_fn=torch.utils.data.default_collate)
    assert flat(fast) == flat(slow)
    assert sorted(index for batch in flat(fast) for index in batch[1]) == [1, 3, 4, 9, 27]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="it is about machines without a GPU")
@pytest.mark.parametrize("data", [TensorDataset(torch.arange(23.0)), Drawing()], ids=["tensors", "samples"])
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_memory_means_nothing_without_a_gpu(data, workers):
    """A loop that was written for a GPU runs on a laptop; a warning would be an error here."""
    asked = loader(data, pin_memory=True, num_workers=workers)
    assert flat(asked) == flat(loader(data, pin_memory=False))


def test_with_a_gpu_what_lies_on_the_processor_is_pinned_and_nothing_else(monkeypatch):
    pinned = []
    monkeypatch.setattr("rekindle.run.loader._can_pin", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    list(loader(TensorDataset(torch.ones(8, 2), torch.ones(8))))
    assert len(pinned) == 4  # two tensors in each of two batches
    list(loader(TensorDataset(torch.ones(8, 2, device="meta"))))  # as one that lies on the GPU
    list(loader())  # samples that may lie anywhere
    assert len(pinned) == 4
    assert loader(num_workers=2)._make_torch_loader(persistent=False).pin_memory
    assert loader(pin_memory=True)._make_torch_loader(persistent=False).pin_memory


def test_a_data_set_that_fetches_batches_is_asked_for_batches():
    assert flat(loader(Fetching(), num_workers=2)) == flat(loader(Fetching()))


def test_a_part_of_a_data_set_draws_per_sample():
    """`Subset` has `__getitems__` although it only passes the samples on: a sample must not depend on its batch."""
    part = Subset(Drawing(), list(range(23)))
    by_fours, by_fives = loader(part, shuffle=False), loader(part, shuffle=False, batch_size=5)
    assert [v for batch in flat(by_fours) for v in batch[1]] == [v for batch in flat(by_fives) for v in batch[1]]


def test_spawned_workers_give_the_same_samples():
    """In a process of its own: a spawned worker imports the script that defines the data set."""
    script = (
        "from run_job import Noisy, SAMPLES\n"
        "from rekindle.run.loader import make_loader\n"
        "def walk(**settings):\n"
        "    one = make_loader(Noisy(), seed=1, batch_size=32, **settings)\n"
        "    return [part.tolist() for batch in one.batches(one.pass_key(0, (0,))) for part in batch]\n"
        "if __name__ == '__main__':\n"
        "    assert walk(num_workers=1, multiprocessing_context='spawn') == walk()\n"
        "    print('equal')\n"
    )
    helpers = str(Path(__file__).parents[1] / "helpers")
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": helpers}, capture_output=True, text=True
    )
    assert done.stdout == "equal\n", done.stderr


def test_a_loader_is_freed_at_once_and_its_workers_with_it():
    """In a circle of references it would be freed by chance, perhaps in a forked worker, which then hangs."""
    one = loader(num_workers=1)
    next(one.batches(one.pass_key(0, (0,))))
    workers = list(one._torch_loader._iterator._workers)
    gone = weakref.ref(one)
    del one
    assert gone() is None
    assert not any(worker.is_alive() for worker in workers)


def test_two_walks_over_one_loader_at_the_same_time_do_not_mix():
    one = loader(num_workers=1)
    first, second = one.pass_key(0, (0,)), one.pass_key(0, (1,))
    pairs = list(zip(one.batches(first), one.batches(second), strict=True))
    assert flat(a for a, _ in pairs) == flat(loader().batches(first))
    assert flat(b for _, b in pairs) == flat(loader().batches(second))


def test_a_walk_that_was_left_early_does_not_harm_the_next(expected):
    one = loader(num_workers=2)
    for _ in one.batches(one.pass_key(0, (0,))):
        break
    assert flat(one.batches(one.pass_key(1, (0,)))) == expected[1]


def test_the_indices_of_a_batch_can_be_asked_for(expected):
    one = loader()
    for number, batch in enumerate(expected[1]):
        assert one.indices(one.pass_key(1, (0,)), number) == batch[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_data_set_keeps_its_message(workers):
    with pytest.raises(KeyError, match="no such picture"):
        list(loader(Failing(), num_workers=workers))
    kill_workers()  # the traceback holds them until the garbage is collected
    assert multiprocessing.active_children() == []


def test_an_empty_data_set_is_refused():
    with pytest.raises(RunError) as caught:
        loader(TensorDataset(torch.empty(0, 3)))
    assert str(caught.value) == (
        "the data set is empty: it has no sample to train on\n"
        "  why     len(TensorDataset) is 0\n"
        "  do      look at the path or the filter that made it"
    )


def test_no_full_batch_is_refused():
    with pytest.raises(RunError, match="use batch_size=23 or smaller, or drop_last=False"):
        loader(batch_size=64, drop_last=True)


def test_an_iterable_data_set_is_refused_with_the_way_out():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(RunError, match=r"run\.batches\(that_loader\)"):
        loader(Stream())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": None}, ValueError),
        ({"num_workers": -1}, ValueError),
        ({"sampler": [1]}, TypeError),
        ({"generator": torch.Generator()}, TypeError),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(settings, error):
    with pytest.raises(error):
        loader(**settings)


@pytest.mark.filterwarnings("ignore:Got pickle error")  # torch says so too, and goes on to raise
def test_a_data_set_that_cannot_be_sent_to_a_worker_is_said_as_such():
    class Inside(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return index

    one = make_loader(Inside(), seed=0, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(RunError) as caught:
        next(iter(one))
    assert "cannot be sent to a data loader's workers: Can't pickle local object" in caught.value.what
    assert "num_workers=0" in caught.value.do
