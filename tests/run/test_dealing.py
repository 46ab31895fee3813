"""How a loader deals out an order: every sample once, whatever the number of processes and the size of batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from rekindle.errors import ConfigError, RunError
from rekindle.run.loader import make_deal, make_loader


class Plain(Dataset):
    """Samples that are their own numbers, fetched one by one."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor(index)


def samples(loader, key, start=0, **settings):
    found = []
    for batch in loader.batches(key, start, **settings):
        values = batch[0] if isinstance(batch, list) else batch
        found.append(values.tolist())
    return found


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 200),
    ranks=st.integers(1, 7),
    more=st.integers(0, 20),
    key=st.integers(0, 2**63),
    drop_last=st.booleans(),
)
def test_every_sample_is_dealt_to_one_process_once(count, ranks, more, key, drop_last):
    size = ranks + more
    if drop_last and count < size:
        return
    data = TensorDataset(torch.arange(count))
    whole = samples(make_loader(data, seed=0, batch_size=size, drop_last=drop_last), key)
    loaders = [
        make_loader(data, seed=0, global_batch_size=size, ranks=(rank, ranks), drop_last=drop_last)
        for rank in range(ranks)
    ]
    dealt = [samples(loader, key) for loader in loaders]
    assert {len(batches) for batches in dealt} == {len(whole)} == {len(loader) for loader in loaders}
    for number, batch in enumerate(whole):
        shares = [loader.deal.share(number * size, count) for loader in loaders]
        own = [part for batches, share in zip(dealt, shares, strict=True) if share.weight for part in batches[number]]
        assert own == batch
        lent = [batches[number] for batches, share in zip(dealt, shares, strict=True) if not share.weight]
        assert all(part and set(part) <= set(batch) for part in lent)
        # The weighted mean over processes of means over samples is the mean over all samples.
        assert sum(share.weight for share in shares) == pytest.approx(ranks)


@pytest.mark.parametrize("workers", [0, 2])
def test_single_samples_and_whole_tensors_are_dealt_alike_also_from_the_middle(workers):
    for rank in range(3):
        tensors = make_loader(TensorDataset(torch.arange(50)), seed=0, batch_size=4, ranks=(rank, 3))
        plain = make_loader(Plain(50), seed=0, batch_size=4, ranks=(rank, 3), num_workers=workers)
        assert samples(tensors, 7) == samples(plain, 7)
        assert samples(plain, 7, 24) == samples(plain, 7)[2:]


def test_shards_are_the_same_parts_whoever_has_them():
    data = TensorDataset(torch.arange(53))
    made = {ranks: [make_loader(data, seed=0, global_batch_size=16, ranks=(rank, ranks), shards=8)
                    for rank in range(ranks)] for ranks in (1, 2, 8)}  # fmt: skip
    alone = samples(made[1][0], 3)
    assert len(alone) == len(made[1][0]) == 8 * 4
    for ranks, loaders in made.items():
        parts = 8 // ranks
        dealt = [samples(loader, 3) for loader in loaders]
        for number, expected in enumerate(alone):
            batch, shard = divmod(number, 8)
            rank, part = divmod(shard, parts)
            if made[1][0].deal.share(16 * batch, 53, shard).weight:
                assert dealt[rank][batch * parts + part] == expected


def test_an_evaluation_gives_all_to_each_process_or_its_own_part():
    data = TensorDataset(torch.arange(10))
    loaders = [make_loader(data, seed=0, batch_size=4, shuffle=False, ranks=(rank, 2)) for rank in range(2)]
    for loader in loaders:
        assert [part for [batch] in loader for part in batch.tolist()] == list(range(10))
    shares = [[part for [batch] in loader.own_share() for part in batch.tolist()] for loader in loaders]
    assert shares == [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7]], "nothing is lent where nobody waits"


def test_settings_that_cannot_be_dealt_are_refused():
    data = TensorDataset(torch.arange(10))
    with pytest.raises(ConfigError, match="a batch of 2 samples cannot be dealt out to 3 ranks"):
        make_deal(2, 0, 3)
    with pytest.raises(TypeError, match="not both"):
        make_loader(data, seed=0, batch_size=4, global_batch_size=8)
    with pytest.raises(ValueError, match="global_batch_size"):
        make_loader(data, seed=0, global_batch_size=0)
    with pytest.raises(RunError, match="a batch 12"):
        make_loader(data, seed=0, batch_size=4, drop_last=True, ranks=(0, 3))
