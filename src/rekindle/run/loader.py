"""A torch DataLoader whose order can be resumed at any batch and whose samples do not depend on the workers.

A batch sampler that is a function of (pass, position) yields (pass key, index) pairs; a wrapper around the data set
seeds the global generators of Python, NumPy and torch from each pair before it fetches the sample. The pass travels
with the index, so persistent workers are right as well. The same bits come from 0, 1 or 8 workers, forked or spawned,
whatever was prefetched, and after a resume at any batch.

A *pass* is one walk over the data set; its key is the hash of (seed, epoch, loop). Iterating a `Loader` directly, as
for validation, is the pass of epoch 0, always the same.

Among several processes every batch is one batch of all of them together, cut from the same order, and each process has
its part of it (`Deal`): every sample comes exactly once an epoch, the last, shorter batch included, and nothing is
repeated to fill it. A process for which nothing is left of it is given samples of the others once more, with the weight
zero, so that it can take part.

Law: for the same pass key, batch k is the same, bit for bit, however it was reached.

What no wrapper can reach: a data set that draws from a generator of its own (`np.random.default_rng()`,
`random.Random()`) or from the clock. docs/resume.md says what to do.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from rekindle.errors import ConfigError, RunError
from rekindle.run.order import Order, indices_at, make_order, walk
from rekindle.run.order import indices as order_indices
from rekindle.run.randomness import key_of, preserved, sample_key, seed_sample
from rekindle.run.workers import Shield, starting_workers, watch

__all__ = ["Deal", "Loader", "Share", "make_deal", "make_loader"]

_REFUSED = {
    "sampler": "the order is what makes a run resumable",
    "batch_sampler": "the order is what makes a run resumable",
    "generator": "every seed comes from the run's",
    "in_order": "batches out of order cannot be resumed",
}


_BLOCK = 16_384


@dataclass(frozen=True, slots=True)
class Share:
    """What a process has of one batch of all.

    Attributes:
        start, stop: positions in the order.
        weight: its samples, times the number of shares, over the samples of all; 1 where all have the same number, and
            0 where its samples are another process's.
    """

    start: int
    stop: int
    weight: float


@dataclass(frozen=True, slots=True)
class Deal:
    """How an order is cut into batches of all processes, and which parts of each are this one's.

    Attributes:
        size: samples of a batch of all processes together.
        shares: how many parts it is cut into.
        parts: (first, last) within the batch: this process's own, one after the other; each is a batch of its loader.
        first_share: number of the first of them.
    """

    size: int
    shares: int
    parts: tuple[tuple[int, int], ...]
    first_share: int

    @property
    def is_whole(self) -> bool:
        """Whether one process has all of every batch."""
        return self.shares == 1

    def share(self, start: int, length: int, part: int = 0) -> Share:
        """Return one of this process's parts of the batch that begins at `start`, in an order of `length` samples."""
        size = min(self.size, length - start)
        first, last = self.parts[part]
        first, last = min(first, size), min(last, size)
        if first < last:
            own = last - first
            return Share(start + first, start + last, 1.0 if own * self.shares == size else own * self.shares / size)
        width = self.parts[part][1] - self.parts[part][0]
        return Share(start, start + min(width, size), 0.0)

    def count(self, left: int, *, drop_last: bool) -> int:
        """Return how many batches this process's loader gives while `left` samples are dealt out."""
        return _batch_count(left, self.size, drop_last=drop_last) * len(self.parts)


def make_deal(size: int, rank: int = 0, world_size: int = 1, *, shares: int | None = None) -> Deal:
    """Return how batches of `size` samples are dealt out.

    Args:
        size: samples of a batch of all processes together.
        rank: which process,
        world_size: of how many.
        shares: parts that a batch is cut into, a multiple of `world_size`, each process having as many of them; None
            for one each.

    Raises:
        ConfigError: fewer samples than parts.
    """
    shares = world_size if shares is None else shares
    if size < shares:
        raise ConfigError(
            f"a batch of {size} samples cannot be dealt out to {shares} {'shards' if shares > world_size else 'ranks'}",
            why="each needs at least one sample of a full batch",
            do=f"global_batch_size={shares} or more, or fewer processes",
        )
    each, more = divmod(size, shares)
    bounds = [number * each + min(number, more) for number in range(shares + 1)]
    own = range(rank * shares // world_size, (rank + 1) * shares // world_size)
    return Deal(size, shares, tuple((bounds[number], bounds[number + 1]) for number in own), own[0])


class Loader:
    """Batches of a map-style data set, in an order that can be resumed. Made by `run.loader`.

    Holds the worker processes of its DataLoader open between epochs.

    Attributes:
        dataset: the data set as it was given.
        batch_size, shuffle, drop_last, num_workers: as given; with ``global_batch_size=``, `batch_size` is this
            process's part of it.
        global_batch_size: as given, None where it was not.
        deal: how batches are dealt out among the processes.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        seed: int,
        batch_size: int,
        shuffle: bool,
        num_workers: int,
        drop_last: bool,
        collate_fn: Callable[[list[Any]], Any] | None,
        pin_memory: bool | None,
        persistent_workers: bool,
        settings: dict[str, Any],
        global_batch_size: int | None,
        deal: Deal,
    ) -> None:
        """Use `make_loader`, which checks what is given."""
        self.global_batch_size = global_batch_size
        self.deal = deal
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.num_workers = num_workers
        self._seed = seed
        self._samples: int = len(dataset)
        self._pin_asked = bool(pin_memory)
        self._pin_memory = _can_pin() if pin_memory is None else pin_memory and _can_pin()
        self._tensors = _tensors_of(dataset) if collate_fn is None else None
        self._plan = _Plan(deal, drop_last)
        self._current: weakref.ref[Any] | None = None
        self._direct_passes = 0
        self._collate_fn = collate_fn
        self._settings = settings
        self._persistent = persistent_workers
        self._torch_loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        """Batches that `run.batches` hands out in one epoch."""
        return self.deal.count(self._samples, drop_last=self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        """Walk over the pass of epoch 0 from its start, without touching any run's position or generators.

        Among several processes each one walks over all of it, in batches of `batch_size`.
        """
        yield from self._walk_directly(self.deal if self.deal.is_whole else make_deal(self.batch_size))

    def own_share(self) -> Iterator[Any]:
        """Walk over this process's part of the pass of epoch 0: every sample in exactly one process.

        The number of batches may differ by one between processes, so nothing in this loop may wait for the others;
        `run.reduce` adds up what each of them counted, after it.
        """
        yield from self._walk_directly(self.deal, lend=False)

    def _walk_directly(self, deal: Deal, *, lend: bool = True) -> Iterator[Any]:
        self._direct_passes += 1
        batches = self.batches(self.pass_key(0, ()), deal=deal, lend=lend)
        yield from _preserving(batches) if self._draws_here else batches

    @property
    def repeats_order(self) -> bool:
        """Whether one shuffled order was walked over directly more than once."""
        return self.shuffle and self._direct_passes > 1

    def pass_key(self, epoch: int, path: Sequence[int]) -> int:
        """Return the key of the pass of an epoch's loop; the first loop of every epoch has the path ``(0,)``."""
        return key_of(self._seed, "pass", epoch, *path)

    def indices(self, pass_key: int, batch: int) -> list[int]:
        """Return which samples batch number `batch` of a pass holds, where one process has all of them."""
        return order_indices(self._order(pass_key), batch * self.batch_size, self.batch_size).tolist()

    def indices_of(self, pass_key: int, share: Share) -> list[int]:
        """Return which samples a process's part of a batch holds."""
        return order_indices(self._order(pass_key), share.start, share.stop - share.start).tolist()

    def batches(
        self, pass_key: int, start: int = 0, *, part: int = 0, deal: Deal | None = None, lend: bool = True
    ) -> Iterator[Any]:
        """Return the batches of a pass from the sample at position `start` on; workers are started now.

        Args:
            pass_key: which pass.
            start: where a batch of all processes begins.
            part: which of this process's parts of that batch comes first.
            deal: instead of the loader's own.
            lend: give a process for which nothing is left of the last batch samples of the others.
        """
        order = self._order(pass_key)
        if self._tensors is not None and not self.num_workers:
            return self._batches_of_tensors(order, start, part, deal or self.deal, lend=lend)
        self._plan.order, self._plan.key, self._plan.start, self._plan.part = order, pass_key, start, part
        self._plan.deal, self._plan.lend = deal or self.deal, lend
        with starting_workers():
            iterator = iter(self._free_torch_loader())
            watch(iterator)  # before a signal that was held back can interrupt
        # A generator dies with its loop, also after a `break`; torch keeps a persistent iterator for good.
        walking = (batch for batch in iterator)
        self._current = weakref.ref(walking)
        return walking

    @property
    def _draws_here(self) -> bool:
        """Whether samples are made in this process, from its generators."""
        return self._tensors is None and not self.num_workers

    def _order(self, pass_key: int) -> Order:
        return make_order(self._samples, pass_key, shuffle=self.shuffle)

    def _make_torch_loader(self, *, persistent: bool) -> DataLoader[Any]:
        # A method: a function kept as an attribute would close a circle of references, and an iterator that is freed
        # late, by the garbage collector of a forked worker, has that worker join its own brothers.
        settings = dict(self._settings)
        shield = Shield(settings.pop("worker_init_fn", None)) if self.num_workers else None
        return DataLoader(
            cast("Any", _Keyed(self.dataset) if self._tensors is None else _InBatches(*self._tensors)),
            batch_sampler=cast("Any", self._plan),
            num_workers=self.num_workers,
            collate_fn=self._collate_fn if self._tensors is None else _as_it_is,
            # Samples that lie on the device already cannot be pinned, and only workers cannot make such.
            pin_memory=self._pin_memory and (self.num_workers > 0 or self._pin_asked),
            persistent_workers=persistent,
            # Without one of its own, every iterator draws its base seed from torch's global generator.
            generator=torch.Generator(),
            worker_init_fn=shield,
            **settings,
        )

    def _free_torch_loader(self) -> DataLoader[Any]:
        """Return the DataLoader; another one while a pass over it is under way, since persistent workers serve one."""
        if self._persistent and _is_busy(self._current):
            return self._make_torch_loader(persistent=False)
        if self._torch_loader is None:
            self._torch_loader = self._make_torch_loader(persistent=self._persistent)
        return self._torch_loader

    def _batches_of_tensors(self, order: Order, start: int, part: int, deal: Deal, *, lend: bool) -> Iterator[Any]:
        """Index whole batches: nothing is drawn, nothing is collated sample by sample."""
        tensors, mapping = cast("tuple[tuple[torch.Tensor, ...], torch.Tensor | None]", self._tensors)
        pin = self._pin_memory
        for wanted in _Plan(deal, self.drop_last, lend=lend).chosen(order, start, part):
            batch = _take(tensors, mapping, wanted)
            yield [_pinned(tensor) for tensor in batch] if pin else batch


def make_loader(
    dataset: Any,
    *,
    seed: int,
    batch_size: int = 1,
    shuffle: bool = True,
    num_workers: int = 0,
    drop_last: bool = False,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    pin_memory: bool | None = None,
    persistent_workers: bool | None = None,
    global_batch_size: int | None = None,
    ranks: tuple[int, int] = (0, 1),
    shards: int | None = None,
    **settings: Any,
) -> Loader:
    """Return a `Loader`; arguments as those of `torch.utils.data.DataLoader`, except where said.

    Args:
        dataset: anything with ``__len__`` and ``__getitem__``.
        seed: the run's seed.
        batch_size: samples of a batch, of each process.
        shuffle: a new order each epoch.
        num_workers: processes that fetch; the samples do not depend on it.
        drop_last: leave out a last batch that is not full.
        collate_fn: makes a batch of a list of samples.
        pin_memory: None for "where there is a GPU", and what is not on it already; where there is none it means
            nothing.
        persistent_workers: None for "yes, where there are workers".
        global_batch_size: instead of `batch_size`: samples of a batch of all processes together, the same on any number
            of them.
        ranks: (rank, processes) of the run.
        shards: parts that each batch of all is cut into, whatever the number of processes; None for one each.
        **settings: `timeout`, `prefetch_factor`, `worker_init_fn`, `multiprocessing_context`, `pin_memory_device`.

    Raises:
        RunError: the data set has no batch to give, or is an iterable one, which has no order to resume.
        TypeError, ValueError: an argument that cannot be meant.
    """
    for name, reason in _REFUSED.items():
        if name in settings:
            raise TypeError(
                f"run.loader takes no {name}=: {reason}. "
                "With a DataLoader of your own, run.batches(that_loader) works too"
            )
    if batch_size is None or operator.index(batch_size) < 1:
        raise ValueError(f"batch_size is a number of samples, at least 1, not {batch_size!r}")
    if global_batch_size is not None:
        if operator.index(global_batch_size) < 1:
            raise ValueError(f"global_batch_size is a number of samples, at least 1, not {global_batch_size!r}")
        if batch_size != 1:
            raise TypeError("run.loader takes batch_size= (of each process) or global_batch_size= (of all), not both")
    size = global_batch_size or batch_size * (shards or ranks[1])
    deal = make_deal(size, *ranks, shares=shards)
    batch_size = deal.parts[0][1] - deal.parts[0][0]
    if operator.index(num_workers) < 0:
        raise ValueError(f"num_workers is 0 or more, not {num_workers!r}")
    _check_dataset(dataset, deal.size, drop_last=drop_last)
    return Loader(
        dataset,
        seed=seed,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        drop_last=drop_last,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        persistent_workers=bool(num_workers) if persistent_workers is None else persistent_workers,
        settings=settings,
        global_batch_size=global_batch_size,
        deal=deal,
    )


def _can_pin() -> bool:
    """Whether there is a device that copies faster from pinned memory; torch itself pins nothing for Apple's."""
    if not torch.accelerator.is_available():
        return False
    device = torch.accelerator.current_accelerator()
    return device is not None and device.type != "mps"


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in pinned memory; one that lies on a device already, or has no plain memory, as it is."""
    return tensor.pin_memory() if tensor.device.type == "cpu" and tensor.layout is torch.strided else tensor


def _check_dataset(dataset: Any, batch_size: int, *, drop_last: bool) -> None:
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise RunError(
            f"{kind} has no samples by number, so run.loader cannot give it an order to resume",
            why="it is an iterable data set",
            do="make a DataLoader of your own and walk over it with run.batches(that_loader): it is fast-forwarded",
        )
    try:
        count = len(dataset)
    except TypeError:
        raise RunError(
            f"{kind} does not say how many samples it has",
            do=f"give {kind} a __len__, or walk over a DataLoader of your own with run.batches(that_loader)",
        ) from None
    if count == 0:
        raise RunError(
            "the data set is empty: it has no sample to train on",
            why=f"len({kind}) is 0",
            do="look at the path or the filter that made it",
        )
    if not _batch_count(count, batch_size, drop_last=drop_last):
        raise RunError(
            f"the data set has {count:,} samples, and a batch {batch_size:,}: there is no full one",
            why="drop_last=True leaves out what is not full",
            do=f"use batch_size={count} or smaller, or drop_last=False",
        )


def _batch_count(samples: int, batch_size: int, *, drop_last: bool) -> int:
    return samples // batch_size if drop_last else -(-samples // batch_size)


class _Plan:
    """The batch sampler: an iterator over lists of (pass key, index), from the batch that was asked for last.

    It lives in the main process; torch asks it for an iterator once per pass.
    """

    def __init__(self, deal: Deal, drop_last: bool, *, lend: bool = True) -> None:
        self.deal = deal
        self.drop_last = drop_last
        self.lend = lend
        self.order = make_order(0, 0)
        self.key = 0
        self.start = 0
        self.part = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._pairs(self.chosen(self.order, self.start, self.part), self.key)  # now: the next pass sets others

    def __len__(self) -> int:
        return self.deal.count(self.order.length, drop_last=self.drop_last)

    def _pairs(self, chosen: Iterator[torch.Tensor], key: int) -> Iterator[list[tuple[int, int]]]:
        for wanted in chosen:
            yield [(key, index) for index in wanted.tolist()]

    def chosen(self, order: Order, start: int, part: int = 0) -> Iterator[torch.Tensor]:
        """Return the indices of each batch from the sample at `start` on, as int64 tensors of shape (batch,)."""
        if self.deal.is_whole:
            return self._all_of(order, start, self.deal.size)
        return self._parts_of(order, start, part, self.deal, lend=self.lend)

    def _parts_of(self, order: Order, start: int, part: int, deal: Deal, *, lend: bool) -> Iterator[torch.Tensor]:
        """Only the positions of this process's parts are looked up, for many batches at once."""
        parts = [torch.arange(first, last, dtype=torch.int64) for first, last in deal.parts]
        widths = [len(positions) for positions in parts]
        own = torch.cat(parts)
        count = 1
        while start + deal.size <= order.length:
            whole = min(count, (order.length - start) // deal.size)
            begins = start + deal.size * torch.arange(whole, dtype=torch.int64)
            found = indices_at(order, (begins[:, None] + own[None, :]).flatten())
            yield from torch.split(found, widths * whole)[part:]
            start, part = start + whole * deal.size, 0
            count = max(1, _BLOCK // len(own))
        if start < order.length and not self.drop_last:
            for number in range(part, len(parts)):
                share = deal.share(start, order.length, number)
                if share.weight or lend:
                    yield order_indices(order, share.start, share.stop - share.start)

    def _all_of(self, order: Order, start: int, size: int) -> Iterator[torch.Tensor]:
        left = torch.empty(0, dtype=torch.int64)
        for block in walk(order, start):
            ready = torch.cat((left, block)) if len(left) else block
            whole = len(ready) - len(ready) % size
            if whole:
                yield from torch.split(ready[:whole], size)
            left = ready[whole:]
        if len(left) and not self.drop_last:
            yield left


class _Keyed:
    """A data set whose samples are asked for by (pass key, index) and drawn from generators seeded by that pair."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._many = _fetches_many(dataset)

    def __getitem__(self, pair: tuple[int, int]) -> Any:
        key, index = pair
        seed_sample(sample_key(key, index))
        return self.dataset[index]

    def __getitems__(self, pairs: list[tuple[int, int]]) -> list[Any]:
        if not self._many:
            return [self[pair] for pair in pairs]
        # A data set that fetches whole batches gets them whole, seeded by all that is in them.
        wanted = [index for _, index in pairs]
        seed_sample(key_of(pairs[0][0], "batch of samples", *wanted))
        return cast("list[Any]", self.dataset.__getitems__(wanted))


class _InBatches:
    """Tensors that are indexed a batch at a time, in a worker."""

    def __init__(self, tensors: tuple[torch.Tensor, ...], mapping: torch.Tensor | None) -> None:
        self._tensors = tensors
        self._mapping = mapping

    def __getitems__(self, pairs: list[tuple[int, int]]) -> list[torch.Tensor]:
        return _take(self._tensors, self._mapping, torch.tensor([index for _, index in pairs]))


def _fetches_many(dataset: Any) -> bool:
    """Tell whether the data set itself fetches batches; `Subset` only passes the question on."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return callable(getattr(dataset, "__getitems__", None))


def _tensors_of(dataset: Any) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None] | None:
    """Return the tensors of a `TensorDataset`, or of a `Subset` of one with its indices; None for all else.

    Only these very classes: a subclass may draw something in ``__getitem__``.
    """
    if type(dataset) is TensorDataset:
        return dataset.tensors, None
    if type(dataset) is Subset and type(dataset.dataset) is TensorDataset:
        mapping = torch.as_tensor(list(dataset.indices), dtype=torch.int64)
        if mapping.numel() and int(mapping.min()) >= 0:
            return dataset.dataset.tensors, mapping
    return None


def _take(tensors: tuple[torch.Tensor, ...], mapping: torch.Tensor | None, wanted: torch.Tensor) -> list[torch.Tensor]:
    """Return one batch, as the default collate function would make it of the single samples."""
    if mapping is not None:
        wanted = mapping[wanted]
    return [torch.index_select(tensor, 0, wanted.to(tensor.device)) for tensor in tensors]


def _as_it_is(batch: Any) -> Any:
    return batch


def _is_busy(iterator: weakref.ref[Any] | None) -> bool:
    """Tell whether a pass is still being walked over."""
    alive = iterator() if iterator is not None else None
    return alive is not None and alive.gi_frame is not None


def _preserving(batches: Iterator[Any]) -> Iterator[Any]:
    """Fetch each batch without leaving a trace in the caller's generators, as if a worker had fetched it."""
    while True:
        with preserved():
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch
