"""Walking over batches so that the walk can be interrupted anywhere: what `run.batches(...)` returns.

Three kinds of loaders, by what they can do:

  a `Loader` of `run.loader`          starts at any batch at once
  one with `state_dict` and           its state is kept in the snapshot and given back to it
  `load_state_dict`
  anything else                       is walked over again up to the batch, and said so: that costs what those batches
  cost

The global generators are seeded before a foreign loader's iterator is made and before each of its batches is fetched,
so that an ordinary shuffling DataLoader makes the same order again; and for every kind when a batch is handed out, so
that what the step draws is a function of the step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from rekindle.devices.move import to_device
from rekindle.errors import RunError, StateMismatch
from rekindle.run.boundary import arrive, begin_batch, finish_loop, is_due
from rekindle.run.core import Core
from rekindle.run.leaving import leave_where_it_waits
from rekindle.run.loader import Loader, Share
from rekindle.run.marks import is_unchanged, way_back
from rekindle.run.randomness import key_of, sample_key, seed_globals
from rekindle.run.signals import Leaving
from rekindle.run.workers import dead_worker, shield, starting_workers, watch

if TYPE_CHECKING:
    from rekindle.run.places import Loop

__all__ = ["Batches"]


class Batches:
    """An iterator over the batches of one loop, from where the run goes on.

    Args:
        core: the run, whose position it moves.
        source: what is walked over.
    """

    def __init__(self, core: Core, source: Any) -> None:
        """Take the loop's place; nothing is fetched yet."""
        self._core = core
        self._source = source
        self._own = source if isinstance(source, Loader) else None
        self.stateful = self._own is None and _keeps_its_state(source)
        # Batches that lie ready draw nothing when they are fetched; a loader of ours seeds each sample itself.
        self._may_draw = self._own is None and type(source) not in {list, tuple}
        self._iterator: Iterator[Any] | None = None
        self._ended = False
        # Samples dealt out, and batches of all processes counted, before their size changed for the last time.
        self._before, self._counted = 0, 0
        length = _length_of(source)
        if core.settings.accumulate > 1 and length is None:
            raise RunError(
                f"accumulate={core.settings.accumulate} needs a loader that knows its number of batches",
                why="the loss of the last, shorter window of an epoch is divided by its true length",
                do=f"give {type(source).__name__} a __len__, or accumulate in the loop itself",
            )
        self.loop: Loop = core.places.open(self, length)
        self._check_shape()
        if self._own is None and core.world_size > 1:
            core.note(
                f"every rank walks over its own {type(source).__name__}; run.loader(dataset, ...) deals samples out",
                once=True,
            )
        path = self.loop.path
        self._key = (
            key_of(core.seed, "batches", core.epoch, *path)
            if self._own is None
            else self._own.pass_key(core.epoch, path)
        )
        # With a fixed number of shards a step is known by its shard, whoever computes it.
        # What is the same for each batch is asked once.
        self._is_elastic = core.settings.elastic is not None
        self._takes_part = core.company is not None or self._is_elastic
        self._is_shared = self._own is not None and not self._own.deal.is_whole
        self._step_key = key_of(core.seed, "batch", self._key, 0 if self._is_elastic else core.rank)

    def __iter__(self) -> Batches:
        """Return itself."""
        return self

    def __len__(self) -> int:
        """Batches that are left.

        Raises:
            TypeError: nobody knows.
        """
        if self.loop.length is None:
            raise TypeError(f"{type(self._source).__name__} does not say how many batches it has")
        return max(0, self.loop.length - self.loop.delivered)

    def __next__(self) -> Any:
        """Hand out the next batch, after what is due at a boundary was done."""
        core, loop = self._core, self.loop
        signals, places = core.signals, core.places
        # Nothing here may be dear: this is what each step of a training pays.
        if places.replaying or (core.clean and (is_due(core) or signals.requested is not None)):
            arrive(core, loop)
        if loop.finished:
            if not self._ended:  # it came to its end in an earlier life
                self._end()
            raise StopIteration
        signals.interruptible = core.clean if core.mark is None else partial(is_unchanged, core)
        signals.patient = (core.behind is not None or loop.delivered == loop.length) and core.is_finishing(loop)
        try:
            if signals.requested is not None and not signals.hold():
                leave_where_it_waits(core, loop)
            if self._iterator is None:
                self._iterator = self._start()
            if self._may_draw:
                seed_globals(sample_key(self._key, loop.delivered))
            batch = next(self._iterator)
            signals.interruptible = False
        except StopIteration:
            signals.interruptible = False
            self._end()
            raise
        except Leaving:
            leave_where_it_waits(core, loop)
            raise AssertionError("unreachable: leaving raises") from None
        except BaseException as error:
            signals.interruptible = False
            dead = dead_worker(error, way_back(core))
            if dead is not None:
                raise dead from error
            raise
        position = places.deliver(loop)
        core.clean = False
        core.mark = None
        if core.moves_batches:
            batch = to_device(batch, core.device, non_blocking=True)
        if not position:
            self._begin(batch)
        share = self._share(position) if self._is_shared else None
        if self._takes_part:
            begin_batch(core, share)
        seed_globals(sample_key(self._step_key, self._shard_number(position) if self._is_elastic else position))
        if core.evidence is not None:
            known = self._own.indices_of(self._key, share or self._share(position)) if self._own else None
            core.evidence.batch(core.epoch, self._number(), position, known, batch, core.tracked_now())
        return batch

    def _begin(self, batch: Any) -> None:
        """Look at what the loop begins with: mistakes that raise no error."""
        core = self._core
        if core.pitfalls is not None:
            core.pitfalls.begin_loop(core, self.loop, self._source, batch)
        if core.company is not None:
            core.company.require_averaged()

    def _end(self) -> None:
        self._ended = True
        self._iterator = None
        finish_loop(self._core, self.loop)

    def keep_state(self) -> None:
        """Have the loop's place hold what the loader wants kept."""
        if self.stateful and self._iterator is not None:
            self.loop.state = self._source.state_dict()

    def _start(self) -> Iterator[Any]:
        """Return the source's iterator, at the loop's place."""
        loop, source = self.loop, self._source
        if self._own is not None:
            start, part = self._spot(loop.delivered)
            return self._own.batches(self._key, start, part=part)
        seed_globals(key_of(self._core.seed, "iterator", self._key))
        if self.stateful and loop.state is not None:
            source.load_state_dict(loop.state)
        if isinstance(source, DataLoader):
            shield(source)
        with starting_workers() if isinstance(source, DataLoader) else contextlib.nullcontext():
            iterator: Iterator[Any] = iter(source)
            watch(iterator)  # before a signal that was held back can interrupt
        if loop.delivered and not (self.stateful and loop.state is not None):
            self._fast_forward(iterator)
        return iterator

    def _fast_forward(self, iterator: Iterator[Any]) -> None:
        """Walk over the batches that were handed out before the interruption."""
        count = self.loop.delivered
        began = time.monotonic()
        for position in range(count):
            seed_globals(sample_key(self._key, position))
            try:
                next(iterator)
            except StopIteration:
                raise StateMismatch(
                    f"{type(self._source).__name__} ended after {position:,} batches; the run had had {count:,}",
                    why="the data set or the batch size is another one than before",
                    do="give the run the data it began with, or begin a new run in another folder",
                ) from None
        seconds = time.monotonic() - began
        unsure = "the same samples come only from the same number of workers"
        if getattr(self._source, "persistent_workers", False):
            unsure += ", and never from persistent ones that draw at random"
        self._core.note(
            f"went through {count:,} batches of {type(self._source).__name__} again to get back to where the run was "
            f"({seconds:.1f} s); {unsure}, and from no generator of the data set's own. "
            "run.loader(dataset, ...) starts at any batch at once and depends on none of these",
            once=True,
        )

    def _check_shape(self) -> None:
        """Make sure that the loader is the one that the loop was walking over."""
        if self._own is None:
            return
        loader, loop = self._own, self.loop
        shape: dict[str, Any] = {
            "samples": len(loader.dataset),
            "batch_size": loader.batch_size if loader.global_batch_size is None else None,
            "shuffle": loader.shuffle,
            "drop_last": loader.drop_last,
        }
        if loader.global_batch_size is not None:
            shape["global_batch_size"] = loader.global_batch_size
        saved, loop.state, loop.shape = loop.state, shape, dict(shape)
        before = self._core.places.shape_before(loop.path)
        if before is not None and (changed := _changes(shape, before)):
            self._core.note(f"the loader changed since the epoch before: {changed}; the bits differ from here on")
        if saved is not None and loop.delivered and not loop.finished:
            self._require_same(shape, saved)
            self._go_on_dealing(loader, saved)
        if not loader.deal.is_whole or self._before:
            shape |= {"size": loader.deal.size, "parts": len(loader.deal.parts)}
            shape |= {"before": self._before, "counted": self._counted}
        if not loop.finished:
            left = loader.deal.count(len(loader.dataset) - self._before, drop_last=loader.drop_last)
            loop.length = self._counted * len(loader.deal.parts) + left

    def _go_on_dealing(self, loader: Loader, saved: Mapping[str, Any]) -> None:
        """Find where in the order the run was; its batches were of another size on another number of processes."""
        # "size" stands there only where a process had less than the whole batch, or the epoch was dealt out anew
        size = saved.get("size") or saved.get("global_batch_size") or saved.get("batch_size")
        parts = saved.get("parts", 1)
        self._before, self._counted = saved.get("before", 0), saved.get("counted", 0)
        if (size, parts) == (loader.deal.size, len(loader.deal.parts)):
            return
        batches = self.loop.delivered // parts
        if size != loader.deal.size:
            dealt = min(len(loader.dataset), self._before + (batches - self._counted) * size)
            self._before, self._counted = dealt, batches
        self.loop.delivered = batches * len(loader.deal.parts)

    def _spot(self, number: int) -> tuple[int, int]:
        """Return where in the order the batch of all that number `number` belongs to begins, and its part here."""
        deal = self._dealer.deal
        batch, part = divmod(number, len(deal.parts))
        return self._before + (batch - self._counted) * deal.size, part

    def _share(self, number: int) -> Share:
        start, part = self._spot(number)
        return self._dealer.deal.share(start, len(self._dealer.dataset), part)

    def _shard_number(self, number: int) -> int:
        deal = self._dealer.deal
        batch, part = divmod(number, len(deal.parts))
        return batch * deal.shares + deal.first_share + part

    @property
    def _dealer(self) -> Loader:
        if self._own is None:
            raise RunError(
                'elastic="bits" needs batches of run.loader',
                why="nobody else cuts them into shards",
                do="run.batches(run.loader(dataset, global_batch_size=...))",
            )
        return self._own

    def _require_same(self, shape: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
        changed = _changes(shape, saved)
        if not changed:
            return
        raise StateMismatch(
            f"the run was interrupted inside an epoch, and its loader changed: {changed}",
            why="batch numbers mean other samples now, so the epoch cannot be finished as it began",
            do="finish the run with the loader it began with, or begin a new run in another folder",
        )

    def _number(self) -> int:
        """Return the loop's path as one number, for the evidence; the loops of an epoch are 0, 1, 2..."""
        path = self.loop.path
        return path[0] if len(path) == 1 else key_of(0, "path", *path) >> 16


def _changes(shape: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """Return what of a loader is not as it was, in words; "" for nothing."""
    names = ("samples", "batch_size", "global_batch_size", "shuffle", "drop_last")
    return ", ".join(
        f"{name} was {saved.get(name)} and is {shape.get(name)}" for name in names if saved.get(name) != shape.get(name)
    )


def _keeps_its_state(source: Any) -> bool:
    if getattr(source, "use_stateful_dataloader", True) is False:  # Accelerate's have the methods, and nothing in them
        return False
    return callable(getattr(source, "state_dict", None)) and callable(getattr(source, "load_state_dict", None))


def _length_of(source: Any) -> int | None:
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return None
