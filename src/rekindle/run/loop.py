"""`Run`: what turns a training loop of one's own into one that survives anything.

The loop stays the user's. `Run` gives it a position (epochs and batches), a boundary (`run.step`), snapshots of all
that is tracked, and the way back. Between two boundaries nothing is ever saved, so a snapshot is always a state that
the undisturbed run went through; and everything drawn at random is a function of the position (`randomness.py`), so the
resumed run goes through the same states after it.

When a save happens. `run.step()` counts an update and marks the state as whole; whatever is due is written when the
loop asks for its next batch (or comes to its end), so that what the body does after `run.step()`, such as logging,
belongs to the step as well. A save that falls on the last batch of an epoch waits for the end of the epoch's body.
Without `run.batches`, `run.step()` itself is the moment; inside `run.epochs` but without `run.batches`, the end of the
epoch is.
The state is copied at that moment and written while the training goes on (`saving.py`); what became of it is heard at
a later `run.step()`, and leaving waits for it.

Law: same seed, same settings, same machine: the same bits, however often and wherever the process was killed.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast, overload

import torch
from torch.optim.lr_scheduler import LRScheduler

from rekindle.devices.move import device_named, to_device
from rekindle.devices.tuning import use_deterministic_algorithms
from rekindle.errors import ConfigError, NotWritten, RunError, StateMismatch
from rekindle.parallel import fsdp as sharding
from rekindle.parallel.company import Company, FollowedLock, How
from rekindle.parallel.ddp import what_is_inexact
from rekindle.parallel.elastic import Elastic
from rekindle.parallel.ranks import DEFAULT_TIMEOUT_S, Ranks, device_of, find_ranks, start
from rekindle.parallel.rates import scale_rates
from rekindle.parallel.shares import SharedCommit
from rekindle.parallel.ties import tie
from rekindle.pitfalls._watch import Watch
from rekindle.run import environment
from rekindle.run.averages import Average
from rekindle.run.batches import Batches
from rekindle.run.changes import fingerprint
from rekindle.run.early_stop import Patience
from rekindle.run.early_stop import time_limit as parse_time_limit
from rekindle.run.half_weights import HalfWeights
from rekindle.run.loader import Loader, Share, make_loader
from rekindle.run.log import Elsewhere, EventFiles, MetricsFile, plain_value
from rekindle.run.places import Loop, Place, Places
from rekindle.run.policy import Best, parse_best, parse_save_every, parse_when_busy
from rekindle.run.precision import DEFAULT_SCALER, Updater, meaning, parse_precision, window_at
from rekindle.run.randomness import key_of, preserved, seed_all, seed_globals
from rekindle.run.saving import EXTRA_VERSION, Mark, SavePolicy, Saver, not_finite_loss
from rekindle.run.schedules import Schedule
from rekindle.run.signals import Leaving, SignalWatch
from rekindle.run.snapshot import Saved, kind_of_tracked, restore
from rekindle.run.start import (
    choose_folder,
    choose_seed,
    command_of_this_run,
    find_start,
    is_snapshot_of,
    naming_disk_of,
    open_where_rank_0_did,
    place_in,
    refuse_without,
)
from rekindle.run.tracked import names_of_parameters
from rekindle.run.workers import dead_worker, kill_workers
from rekindle.store.commit import Committed, clean_leftovers
from rekindle.store.layout import (
    METRICS_NAME,
    TENSORBOARD_NAME,
    check_run_folder,
    read_run_file,
    snapshot_path,
    write_run_file,
)
from rekindle.store.lock import RunLock, hold

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from rekindle.run.evidence import Recorder
    from rekindle.run.progress import ProgressDisplay

__all__ = ["Run"]

EVIDENCE_VARIABLE = "REKINDLE_EVIDENCE"
_SHOW_EVERY_S = 0.1
# Names of what the run tracks for itself; a dot keeps them apart from any that a script can give.
_SCALER, _STOP_WHEN = "scaler.", "stop_when."
_MASTERS = "master_weights"
# Settings that may change between two lives, and are said then.
_DECIDE_BITS = ("precision", "accumulate", "device", "deterministic", "elastic")
# As `plain_value` writes them.
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")

_One = TypeVar("_One")
_Two = TypeVar("_Two")
_Three = TypeVar("_Three")
LrRule = Literal["linear", "sqrt"] | None
ShardWay = Literal["fsdp"] | None


class Run:
    """A run on disk, and its place in it. One process writes a run at a time.

    Args:
        folder: where the run lives; made if it is not there. The variable REKINDLE_RUN_FOLDER goes before it.
        seed: of everything; None draws one and keeps it in ``run.json``.
        save_every: ``"200 steps"``, ``"5 minutes"`` or ``"1 epoch"``; None saves at the end and when asked.
        keep_last: how many of the newest snapshots stay (at least two always do); None keeps all.
        keep_every: snapshots at multiples of so many steps stay as well.
        keep_best: a metric given to `run.log` whose best snapshot stays: the largest value, or the smallest with
            ``"min:val_loss"``.
        keep_best_mode: ``"max"`` or ``"min"``, instead of the prefix.
        resume: ``"auto"`` goes on where there is something to go on from; ``"never"`` refuses a folder with snapshots;
            ``"must"`` refuses one without; a path (of a run or a snapshot) is where a run begins that has none itself.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``, for `autocast`, `backward` and `update`; ``"O0"`` to ``"O3"``
            as well, where O2 and O3 have `prepare` make the weights half.
        accumulate: batches whose gradients make one update, for `backward` and `update`.
        device: for `prepare`: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``; among several processes ``"auto"`` and
            ``"cuda"`` are the GPU of this process's local rank.
        deterministic: have torch use deterministic algorithms only, which exactness on a GPU needs; slower.
        time_limit: ``"2 hours"`` from the start of the process, or ``"slurm"`` for the end of the job: before it, the
            run saves and leaves with the code that a scheduler requeues on.
        tensorboard: write event files; None for "where TensorBoard is installed".
        progress: show progress on stderr; None for "on a terminal".
        on_saved: called with each snapshot (``.step``, ``.path``) once it is on the disk to stay; by the main thread,
            at the first boundary after that.
        background: write snapshots while the training goes on. False waits for each of them.
        when_busy: a save that is due while the one before is still being written waits for it (``"wait"``), or is left
            out (``"skip"``). One that was asked for, or is the last, always waits.
        elastic: ``"bits"`` gives the same bits on 1, 2, 4... up to `shards` processes, at a price.
        shards: parts that each batch is cut into with ``elastic="bits"``, a power of two.
        save_by: which processes write snapshots: rank 0 (``"one"``), or all of them, each a share of the files.
        timeout_s: seconds that processes wait for each other at the start and in a collective.
        watch: look for mistakes that raise no error, at moments that cost next to nothing, and say each once.

    Attributes:
        folder: where the run lives.
        seed: of everything.
        epoch: the epoch in progress, from 0.
        state: plain values and tensors of the script's own that survive.
        device: where `prepare` brings things.
        accumulate: as given.
        rank, world_size: which process of how many; 0 and 1 where there is one.
        batch_weight: how much the batch at hand counts here: its samples, times the processes, over the samples of
            all. 1 but for a last batch that is shared out unevenly; 0 for samples that are another process's own, lent
            so that this one can take part. Gradients are weighted with it already.

    Raises:
        RunLocked: another process writes this run.
        NothingToResume: ``resume="must"`` and nothing there.
        SnapshotDamaged: there are snapshots, and none of them holds.
        ConfigError: a setting that cannot be meant.
        RunError: the folder is something else's.
        OSError: the folder cannot be made or written.

    Example:
        run = rk.Run("runs/digits", seed=0, save_every="200 steps", keep_last=3)
        run.track(model=model, optimizer=optimizer)
        for epoch in run.epochs(10):
            for images, labels in run.batches(loader):
                ...
                run.step()
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        seed: int | None = None,
        save_every: str | None = "5 minutes",
        keep_last: int | None = 3,
        keep_every: int | None = None,
        keep_best: str | None = None,
        keep_best_mode: Literal["max", "min"] | None = None,
        resume: str | os.PathLike[str] = "auto",
        precision: str = "fp32",
        accumulate: int = 1,
        device: str | torch.device | None = None,
        deterministic: bool = False,
        time_limit: str | None = None,
        tensorboard: bool | None = None,
        progress: bool | None = None,
        on_saved: Callable[[Committed], object] | None = None,
        background: bool = True,
        when_busy: Literal["wait", "skip"] = "wait",
        elastic: Literal["bits"] | None = None,
        shards: int = 8,
        save_by: Literal["one", "all"] = "one",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        watch: bool = True,
    ) -> None:
        """Take the run's folder, and find where to go on; nothing is restored before `track`."""
        self._policy = SavePolicy(
            every=parse_save_every(save_every),
            best=parse_best(keep_best, keep_best_mode),
            keep_last=keep_last,
            keep_every=keep_every,
            on_saved=on_saved,
            background=bool(background),
            when_busy=parse_when_busy(when_busy),
        )
        _check_counts(keep_last=keep_last, keep_every=keep_every, accumulate=accumulate)
        if seed is not None and (not isinstance(seed, int) or not 0 <= seed < 2**64):
            raise ConfigError(f"seed={seed!r} is not a whole number from 0 to 2**64 - 1")
        ranks = find_ranks()
        self.rank, self.world_size = ranks.rank, ranks.world_size
        self.device = device_of(ranks, device) or device_named(device)
        self._updater = Updater(parse_precision(precision, self.device), self.device)
        self._limit = parse_time_limit(time_limit)
        if save_by not in {"one", "all"}:
            raise ConfigError(f'save_by={save_by!r} is not "one" or "all"')
        self._elastic = _make_elastic(elastic, shards, accumulate, ranks)
        self.accumulate = accumulate if self._elastic is None else self._elastic.parts
        self._company: Company | None = None
        self._shares_saving = False
        self._replaced: sharding.Repointed | None = None
        self._ask_to_save: _Clock | None = None
        self.batch_weight = 1.0
        self.moves_batches = False
        self.signals = SignalWatch()
        self.state: dict[str, Any] = {}
        self._steps_done = 0
        self._placed = False
        self.evidence = None if self.rank else _recorder()
        self.pitfalls = Watch() if watch and not self.rank else None
        self.epoch = 0
        self.places = Places()
        self._odd_metrics: set[str] = set()
        self._finished, self._finished_total = False, 0
        self._resume_place = Place()
        self._log_sizes: tuple[int, Mapping[str, int]] = (0, {})
        self._progress_wanted = (sys.stderr is not None and sys.stderr.isatty()) if progress is None else progress
        self._progress_wanted = self._progress_wanted and not self.rank
        self._progress: ProgressDisplay | None = None
        self._shown: dict[str, Any] = {}
        self._next_show = 0.0
        self._said: set[str] = set()
        self._tracked: dict[str, object] = {}
        self._prepared: dict[str, int] = {}
        self._ranks_before = 1
        self._optimizers: list[torch.optim.Optimizer] = []
        self._schedulers: list[LRScheduler] = []
        self._averages: list[Average] = []
        self._patience: list[Patience] = []
        self._was_updated = _Flag()
        self._last_loss: torch.Tensor | None = None
        self._settings = {
            "save_every": save_every,
            "keep_last": keep_last,
            "keep_every": keep_every,
            "keep_best": keep_best,
            "precision": self._updater.precision,
            "accumulate": accumulate,
            "device": str(self.device),
            "deterministic": deterministic,
            "elastic": None if elastic is None else f"{elastic}, {shards} shards",
        }

        self._lock: RunLock | FollowedLock
        self._metrics: MetricsFile | Elsewhere
        self._events: EventFiles | Elsewhere
        self.folder = choose_folder(folder, self.note)
        if self.world_size > 1:
            self._company = self._join(ranks, timeout_s, {**self._settings, "seed": seed, "folder": self.folder})
            if self.accumulate > 1 and self._elastic is None:
                self._updater.together = self._company.average
            if save_by == "all":
                self._share_saving(self._company)
        with naming_disk_of(self.folder):
            self._open(seed, resume, tensorboard=tensorboard, deterministic=deterministic)
        self._closed = False
        self._begun = False
        self._reserved = False
        self._in_epochs = False
        self._epochs_total = 0
        self._left_early = False
        self._stop_asked = False
        self._clean = False
        self._mark: Mark | None = None
        self._begun_at, self._prints_cost_s = 0.0, 0.0
        self._saver.plan_next(self._steps_done)
        if precision.upper() in {"O0", "O1", "O2", "O3"}:
            self.note(meaning(precision, self.device))
        self._track_scalers()
        seed_all(key_of(self.seed, "start"))
        atexit.register(_close_display, weakref.ref(self))

    # ---- what the loop is written with

    def track(self, **objects: object) -> None:
        """Have objects saved in every snapshot, and put back what the run's snapshot holds of them, in place.

        Args:
            **objects: name -> module, optimizer, scheduler, scaler, anything with ``state_dict`` and
                ``load_state_dict``, a dict of plain values, a tensor, or a random generator of torch, NumPy or Python.

        Raises:
            TypeError: something whose state nobody can ask for.
            StateMismatch: what the snapshot holds does not fit; nothing was changed.
        """
        for name, value in objects.items():
            if kind_of_tracked(value) is None:
                raise TypeError(
                    f"run.track({name}=...): {type(value).__name__} has no state_dict and load_state_dict, and is no "
                    f"dict, tensor or random generator; plain values go into run.state[{name!r}]"
                )
            if self._tracked.get(name, value) is not value:
                raise ValueError(
                    f"run.track({name}=...): another object is tracked under this name; give it one of its own"
                )
        new = {name: value for name, value in objects.items() if name not in self._tracked}
        if self._replaced is not None:
            for value in new.values():
                if isinstance(value, torch.optim.Optimizer):
                    self._replaced.adopt(value)
        if self._saved is not None:
            for note in restore(self._saved, new, context={**self._tracked, **new}).notes:
                self.note(note)
        self._tracked.update(new)
        for value in new.values():
            self._watch(value)

    @overload
    def prepare(
        self,
        single: _One,
        /,
        *,
        shard: ShardWay = None,
        ddp: Mapping[str, Any] | None = None,
        fsdp: Mapping[str, Any] | None = None,
        lr_rule: LrRule = None,
    ) -> _One: ...
    @overload
    def prepare(
        self,
        first: _One,
        second: _Two,
        /,
        *,
        shard: ShardWay = None,
        ddp: Mapping[str, Any] | None = None,
        fsdp: Mapping[str, Any] | None = None,
        lr_rule: LrRule = None,
    ) -> tuple[_One, _Two]: ...
    @overload
    def prepare(
        self,
        first: _One,
        second: _Two,
        third: _Three,
        /,
        *,
        shard: ShardWay = None,
        ddp: Mapping[str, Any] | None = None,
        fsdp: Mapping[str, Any] | None = None,
        lr_rule: LrRule = None,
    ) -> tuple[_One, _Two, _Three]: ...
    @overload
    def prepare(
        self,
        *objects: Any,
        shard: ShardWay = None,
        ddp: Mapping[str, Any] | None = None,
        fsdp: Mapping[str, Any] | None = None,
        lr_rule: LrRule = None,
    ) -> tuple[Any, ...]: ...
    def prepare(
        self,
        *objects: Any,
        shard: ShardWay = None,
        ddp: Mapping[str, Any] | None = None,
        fsdp: Mapping[str, Any] | None = None,
        lr_rule: LrRule = None,
    ) -> Any:
        """Bring models to the run's device, track everything, and return it in the same order (one object: itself).

        The batches of `run.batches` come on that device from now on. Names in the snapshot are ``model``,
        ``optimizer``, ``scheduler``, with ``_2`` and so on where there are several. Loaders are passed through.

        Among several processes models with anything to train come back wrapped in `DistributedDataParallel`, while
        what is tracked is the model itself, so a snapshot's keys are the same for any number of processes.

        Args:
            *objects: models, optimizers, schedulers, loaders, anything that can be tracked.
            shard: ``"fsdp"`` has each of several processes keep a part of every weight, gradient and optimizer state
                (torch's `fully_shard`), and save that part. The models are changed in place; an optimizer made before
                is pointed to the new weights. On one process there is nothing to share out.
            ddp: settings of `DistributedDataParallel`, such as ``{"bucket_cap_mb": 100}``.
            fsdp: settings of `fully_shard`, and ``{"blocks": [Block]}`` for what is gathered one by one; see
                `rekindle.parallel.fsdp.shard`.
            lr_rule: ``"linear"`` multiplies learning rates by the number of processes, ``"sqrt"`` by its root; after a
                resume on another number, by what that changes.

        Raises:
            TypeError, StateMismatch: as `track`.
            ConfigError: a setting that cannot be meant.
        """
        named: dict[str, object] = {}
        ready: list[object] = []
        half = self._updater.weights
        if shard is not None or fsdp is not None:
            self._shard(objects, shard, fsdp)
        for value in objects:
            if isinstance(value, (Loader, torch.utils.data.DataLoader)):
                ready.append(value)
                continue
            inner = value.module if isinstance(value, Average) else value
            moves = isinstance(value, torch.nn.Module) and not sharding.is_sharded_module(inner)
            ready.append(to_device(value, self.device) if moves else value)
            if half is not None and isinstance(value, torch.nn.Module) and not isinstance(value, Average):
                half.cast(value)  # `to_device` moves modules in place
            known = next((name for name, old in {**self._tracked, **named}.items() if old is value), None)
            named[known or self._free_name(value)] = ready[-1]
        self.moves_batches = self.device.type != "cpu"
        if half is not None:
            names = names_of_parameters({**self._tracked, **named})
            optimizers = [value for value in named.values() if isinstance(value, torch.optim.Optimizer)]
            masters = {name: master for each in optimizers for name, master in half.adopt(each, names).items()}
            if masters:
                named[self._numbered(_MASTERS)] = masters
        self.track(**named)
        if lr_rule is not None:
            self._scale_rates(lr_rule, list(named.values()))
        if self._company is not None or self._elastic is not None:
            ready = [self._shared_out(value, ddp or {}) for value in ready]
            if self._company is not None:
                # Made from this process's weights, and of those only rank 0's count.
                for name, own in named.items():
                    if name.startswith(_MASTERS) and isinstance(own, dict):
                        self._company.same_tensors(own.values())
        return ready[0] if len(ready) == 1 else tuple(ready)

    def loader(self, dataset: Any, **settings: Any) -> Loader:
        """Return a loader over a data set whose order can be resumed at any batch, for any number of workers.

        Args:
            dataset: anything with ``__len__`` and ``__getitem__``.
            **settings: as those of `torch.utils.data.DataLoader`: ``batch_size=1, shuffle=True, num_workers=0,
                drop_last=False, collate_fn=None, pin_memory=None, persistent_workers=None``, and more; see
                `rekindle.run.loader.make_loader`. Among several processes `batch_size` is that of each, and
                ``global_batch_size=`` that of all together, the same on any number of them.

        Raises:
            RunError: the data set is empty, or has no samples by number.
            TypeError, ValueError: an argument that cannot be meant.
        """
        shards = None
        if self._elastic is not None:
            shards = self._elastic.shards
            if settings.get("global_batch_size") is None:
                raise ConfigError(
                    'elastic="bits" needs run.loader(..., global_batch_size=)',
                    why="batch_size is that of each process, so the batches of all would depend on their number",
                    do=f"run.loader(dataset, global_batch_size={shards * 8})",
                )
        made = make_loader(dataset, seed=self.seed, ranks=(self.rank, self.world_size), shards=shards, **settings)
        if self.pitfalls is not None:
            self.pitfalls.knows(made)
        return made

    def epochs(self, total: int) -> Iterator[int]:
        """Walk over the epochs that are left, ``total`` in all, and save when the last one is done.

        Args:
            total: epochs of the whole run, those of earlier lives included.

        Raises:
            StateMismatch: the snapshot holds something that was not tracked.
        """
        if not isinstance(total, int) or total < 0:
            raise ValueError(f"run.epochs(total): a number of epochs, 0 or more, not {total!r}")
        self._begin()
        if self._finished and (self.epoch >= total or self._finished_total >= total):
            self.note(
                f"{self.folder}: already complete ({self.epoch} epochs, {self._steps_done:,} steps); "
                f"run.epochs({total + 1}) or more goes on from here"
            )
            return iter(())
        self._finished = False
        self.signals.install()
        return self._walk_epochs(total)

    def batches(self, source: Any) -> Batches:
        """Walk over the batches that are left of this loop.

        Args:
            source: a loader of `run.loader`, a DataLoader of one's own, or anything iterable.

        Raises:
            StateMismatch: the run was interrupted in this loop, and its loader has changed.
            RunError: accumulation with a loader that does not know its length.
        """
        self._begin()
        return Batches(self, source)

    def step(self) -> None:
        """Count an optimizer update and mark the state as whole; call it once per update, last in the loop's body.

        Inside an accumulation window it does nothing: neither in one of ``accumulate=``, nor in one made by hand
        (a tracked optimizer was not stepped, and there are gradients).
        """
        if not self._begun:
            self._begin()
        # A tracked optimizer was stepped: no window is open, and nothing else need be asked.
        if (self.accumulate > 1 or not self._was_updated.up) and self._in_window():
            return
        if self.places.replaying:
            return
        if self._updater.scalers:
            self._updater.end_step()
        for average in self._averages:
            average.update()
        self._was_updated.up = False
        self._steps_done += 1
        self._clean = True
        if not self._reserved:
            self._reserved = True
            self._saver.reserve(self._tracked)
        under_way = self._saver.under_way
        if under_way is not None and under_way.done:
            self._saver.settle(self.note)
        if self.evidence is not None:
            self.evidence.step(self._steps_done, self.epoch, self.tracked_now(), sys._getframe(1))  # noqa: SLF001 - the caller's frame is what is recorded
        if self.pitfalls is not None and self.pitfalls.due:
            self.pitfalls.look(self, sys._getframe(1))  # noqa: SLF001 - the caller's losses
        if self._progress_wanted:
            self._show_progress()
        if self._limit is not None and self._limit.is_near():
            self._ask_to_leave_in_time()
        if not self.places.any_loop:
            self._step_without_batches()

    def save(self) -> None:
        """Save at the next boundary; outside the loop, at once."""
        if self._in_epochs or self._inside_a_loop():
            self._saver.ask()
        elif not self._begun and self._saved is not None:
            self._write(self._mark_now(self._resume_place), at_once=True)
        else:
            self._write(self._mark_now(), finished=self._finished, at_once=True)

    def stop(self) -> None:
        """End the run after this epoch, as if it were the last: for early stopping."""
        self._stop_asked = True

    def stop_when(self, metric: str, patience: int, *, min_delta: float = 0.0) -> None:
        """End the run after the epoch in which a metric has not been better for `patience` values given to `run.log`.

        Call it before the loop. What was seen is part of every snapshot.

        Args:
            metric: as in ``keep_best``: the largest value is the best, or the smallest with ``"min:val_loss"``.
            patience: values without a better one, at least 1.
            min_delta: by how much a value must be better to count.

        Raises:
            ConfigError: a value that cannot be meant.
        """
        rule = parse_best(metric)
        if rule is None or isinstance(patience, bool) or not isinstance(patience, int) or patience < 1 or min_delta < 0:
            raise ConfigError(
                f"run.stop_when({metric!r}, patience={patience!r}, min_delta={min_delta!r}) cannot be meant",
                why="patience is a number of values, at least 1, and min_delta is not negative",
                do='run.stop_when("min:val_loss", patience=3)',
            )
        known = Patience(rule, patience, min_delta)
        self._patience.append(known)
        self._track_own(f"{_STOP_WHEN}{rule.mode}:{rule.metric}", known)

    def log(self, **values: Any) -> None:
        """Write one line to ``metrics.jsonl``, and to TensorBoard: step, epoch, learning rates and these values.

        What is logged again on the way back to an interrupted place is not written twice. Among several processes
        every one calls it, with the same names: of real numbers the mean over the processes is logged, of everything
        else what rank 0 gave.

        Args:
            **values: numbers, texts, bools, None, or tensors of one element. NaN and infinities become texts.

        Raises:
            TypeError: something else.
            OSError: the line could not be written.
        """
        plain = {name: plain_value(name, value) for name, value in values.items()}
        if self._saved is not None and (not self._begun or self.places.replaying):
            return
        if self._company is not None:
            values = self._company.logged(self._steps_done, values)
            plain = {name: plain_value(name, value) for name, value in values.items()}
        for name, value in plain.items():
            if value in _NOT_FINITE and not isinstance(values[name], str) and name not in self._odd_metrics:
                self._odd_metrics.add(name)
                self.note(f"run.log: {name} is {value} after step {self._steps_done:,}; said once")
        line = {**{name: rate for name, rate in self._rates().items() if name not in plain}, **plain}
        if self._updater.scalers:
            line.setdefault("skipped_steps", self._updater.skipped)
        self._metrics.write(self._steps_done, self.epoch, line)
        self._events.write(self._steps_done, line)
        self._saver.offer_best(plain)
        for known in self._patience:
            value = plain.get(known.rule.metric)
            if isinstance(value, (int, float)) or (value in _NOT_FINITE and known.rule.metric in plain):
                known.offer(float(value))

    def show(self, **values: Any) -> None:
        """Have values stand in the progress display; they are read only when it is drawn."""
        self._shown.update(values)

    @contextlib.contextmanager
    def evaluating(self, *models: torch.nn.Module) -> Iterator[None]:
        """Have models in eval mode and no gradients recorded; afterwards each module is as it was.

        Args:
            *models: None for all that are tracked.
        """
        chosen = models or tuple(value for value in self._tracked.values() if isinstance(value, torch.nn.Module))
        flags = [(module, module.training) for model in chosen for module in model.modules()]
        told_to_leave = False
        try:
            for model in chosen:
                model.eval()
            self.signals.interruptible = self._may_leave
            if self.signals.requested is not None and self._may_leave():
                raise Leaving  # noqa: TRY301 - as if the signal came now
            alone = contextlib.nullcontext() if self._company is None else self._company.evaluating()
            with torch.no_grad(), alone:
                yield
        except Leaving:
            told_to_leave = True
        finally:
            self.signals.interruptible = False
            for module, training in flags:
                module.training = training
        if told_to_leave:
            self._leave(self._mark)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which to compute the loss, for this run's precision."""
        return self._updater.autocast()

    def backward(self, loss: torch.Tensor, *, scaler: str | int | None = None, **settings: Any) -> None:
        """Add the loss's gradients, scaled for the precision and divided by the accumulation window's length.

        Args:
            loss: one number.
            scaler: a name for the loss's own scale, where several losses need different ones; made when it is first
                named, and saved. None for the one that all others share. Where the precision has no scale it means
                nothing.
            **settings: as of `torch.Tensor.backward`.

        Raises:
            RunError: the loss is not finite; nothing was changed. On a GPU this is found at the next save, since
            looking
                at every loss would make the processor wait for the device.
        """
        if loss.device.type == "cpu":
            if not math.isfinite(loss.item()):
                raise self._not_finite(loss)
        else:
            self._last_loss = loss.detach()
        loop = self.places.current
        length = 1
        if self.accumulate > 1 and loop is not None and self._elastic is None:
            length = window_at(loop.delivered - 1, self.accumulate, loop.length).length
        name = None if scaler is None else f"{_SCALER}{scaler}"
        if name is not None and self._updater.scalers and name not in self._tracked:
            self._refuse_several_scales()
            self._track_own(name, self._updater.scaler_named(name))
        if self._company is not None:
            self._company.begin_backward()
        self._updater.backward(loss, length, scaler=name, optimizers=self._optimizers, **settings)

    def update(
        self, *optimizers: torch.optim.Optimizer, clip_norm: float | None = None, clip_value: float | None = None
    ) -> bool:
        """Unscale, clip, step optimizers and their schedulers, clear gradients; inside an accumulation window, nothing.

        Args:
            *optimizers: none for all that are tracked.
            clip_norm: largest norm of all gradients of an optimizer together.
            clip_value: largest absolute value of any gradient.

        Returns:
            Whether this was the end of a window.

        Raises:
            RunError: no optimizer is tracked.
        """
        chosen = list(optimizers) or self._optimizers
        if not chosen:
            raise RunError(
                "run.update() has no optimizer", do="run.prepare(model, optimizer), or run.track(optimizer=optimizer)"
            )
        if self._in_accumulation():
            return False
        if self._elastic is not None:
            self._elastic.finish()
        self._updater.update(
            chosen,
            self._schedulers,
            clip_norm=clip_norm,
            clip_value=clip_value,
            all_optimizers=max(1, len(self._optimizers)),
        )
        return True

    # ---- among several processes; on one, each of these is what it is for one

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks: rank 0, or the only one."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here.

        Raises:
            RunError: one of them is gone, or does not come.
        """
        if self._company is not None:
            self._company.ties.gather("run.barrier", None)

    @contextlib.contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Have rank 0 go through the block before the others do: to download or prepare data once.

        The others wait as long as it takes.
        """
        company = self._company
        if company is not None and self.rank:
            company.ties.gather("run.rank_zero_first", None, timeout_s=None)
        yield
        if company is not None and not self.rank:
            company.ties.gather("run.rank_zero_first", None, timeout_s=None)

    def reduce(self, value: _One, how: How = "mean", *, weight: float | None = None) -> _One:
        """Return the mean, sum, least or greatest of a value over all processes; every process calls it.

        Args:
            value: a number, or a tensor; of a tensor each element on its own.
            how: ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``.
            weight: for the mean: how much this process's value counts, such as its number of samples.

        Returns:
            The same on all processes, of the type that was given.

        Raises:
            TypeError: neither a number nor a tensor.
            RunError: a process is gone, or did not call it.

        Example:
            accuracy = run.reduce(correct, "sum") / run.reduce(seen, "sum")
        """
        if how not in {"mean", "sum", "min", "max"}:
            raise ValueError(f'run.reduce(how={how!r}): it is "mean", "sum", "min" or "max"')
        if self._company is None:
            return value
        reduced: _One = self._company.reduce(value, how, weight)
        return reduced

    # ---- what can be looked at

    @property
    def steps_done(self) -> int:
        """Optimizer updates, in all lives of the run.

        A loop without `epochs` and `batches` asks for this to know where to begin, so that is where such a loop gets
        its place in the random numbers back: ``for step in range(run.steps_done, 1000)``.
        """
        if self._saved is not None and not self._begun and not self._placed:
            self._placed = True
            seed_globals(key_of(self.seed, "step", self._steps_done))
        return self._steps_done

    @property
    def skipped_steps(self) -> int:
        """Optimizer updates that fp16 left out because a gradient had overflowed, in all lives of the run."""
        return self._updater.skipped

    @property
    def best(self) -> Best | None:
        """The best snapshot so far by ``keep_best``, None while there is none."""
        best = self._saver.best
        if best is None:
            return None
        path = snapshot_path(self.folder, best.step)
        return Best(best.value, best.step, path if os.path.isdir(path) else None)

    @property
    def resumed_from(self) -> str | None:
        """Path of the snapshot that this life of the run went on from; None where it began."""
        return None if self._saved is None else self._saved.path

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done and saved."""
        return self._finished

    @property
    def tensorboard(self) -> SummaryWriter | None:
        """TensorBoard's `SummaryWriter` of this run, for histograms, images and more; None where there is none."""
        return self._events.writer

    @property
    def progress(self) -> ProgressDisplay:
        """The progress display, made when it is first asked for."""
        if self._progress is None:
            from rekindle.run.progress import ProgressDisplay  # noqa: PLC0415 - only where it is shown

            self._progress = ProgressDisplay(self._epochs_total or None)
        return self._progress

    def tracked_now(self) -> dict[str, object]:
        """Return everything that a snapshot would hold, by name."""
        return {**self._tracked, "run.state": self.state}

    def note(self, text: str, *, once: bool = False) -> None:
        """Say something on stderr, above the progress display.

        Args:
            text: one line.
            once: leave it out if it was said before.
        """
        if self.rank or (once and text in self._said):
            return
        self._said.add(text)
        if self._progress is not None:
            self._progress.note(f"rekindle: {text}")
        else:
            with contextlib.suppress(OSError, ValueError):  # a closed terminal must not end a training
                print(f"rekindle: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the one place that speaks

    # ---- closing

    def close(self) -> None:
        """Save what is not saved yet, if the loop was left in good order, and give the run free; twice is harmless."""
        self._close(save=sys.exc_info()[0] is None)

    def __enter__(self) -> Run:
        """Return the run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run; after an exception without saving, since the state may be half of a step."""
        if self._company is not None and error is not None:
            self._company.tell_failure(error)
        self._close(save=kind is None)
        dead = dead_worker(error, self._way_back())  # torch raises it from a signal handler, wherever the loop is
        if dead is not None:
            raise dead from error

    def _close(self, *, save: bool) -> None:
        if self._closed:
            return
        try:
            failed = self._settle_last()
            unsaved = self._begun and self._steps_done != self._saver.last_step
            if save and unsaved and (self._clean or not self.places.any_loop):
                if self._left_early:
                    # The script left the epochs with `break`: for it, that was the end of the run.
                    self._finished, self._finished_total = True, self._epochs_total
                self._write(self._mark_now(), finished=self._finished, at_once=True)
            elif save and failed is not None:
                raise failed
        finally:
            self._shut()

    def _settle_last(self) -> Exception | None:
        """Wait for the save that is under way; say and return why it failed, None where it did not.

        For where an exception is on its way, or another save that may do better.
        """
        try:
            self._saver.settle(self.note)
        except NotWritten:
            raise
        except Exception as error:  # noqa: BLE001 - `on_saved` is the user's code
            self.note(str(error))
            return error
        return None

    def _shut(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._company is not None:
            self._company.ties.unfinished = False
        self.signals.close()
        if self._progress is not None:
            self._progress.close()
        try:
            self._metrics.close()
            self._events.close()
        finally:
            try:
                self._saver.close(self.note)
            finally:
                self._lock.release()

    # ---- beginning

    def _open(
        self, seed: int | None, resume: str | os.PathLike[str], *, tensorboard: bool | None, deterministic: bool
    ) -> None:
        """Take the folder's lock and what the newest snapshot says, here or where rank 0 did."""
        company = self._company
        if company is not None and self.rank:
            word = company.follow()
            self._lock = FollowedLock(self.folder)
            self._saver = Saver(cast("RunLock", self._lock), replace(self._policy, on_saved=None), None)
            self._metrics = self._events = Elsewhere()
            self._saved = open_where_rank_0_did(word["snapshot"], self.rank)
            self._take_up(word["seed"], deterministic=deterministic)
            return
        try:
            self._open_here(seed, resume, tensorboard=tensorboard, deterministic=deterministic)
        except BaseException as error:
            if company is not None:
                company.lead_astray(error)
            raise
        if company is not None:
            company.lead({"snapshot": None if self._saved is None else self._saved.path, "seed": self.seed})

    def _open_here(
        self, seed: int | None, resume: str | os.PathLike[str], *, tensorboard: bool | None, deterministic: bool
    ) -> None:
        """Do it here; a run that cannot start gives the lock back."""
        check_run_folder(self.folder)
        refuse_without(self.folder, resume)
        lock = hold(self.folder)
        self._lock = lock
        self._saver = Saver(lock, self._policy, None if self.evidence is None else self.evidence.saved)
        try:
            clean_leftovers(lock)
            self._metrics = MetricsFile(os.path.join(self.folder, METRICS_NAME))
            events = os.path.join(self.folder, TENSORBOARD_NAME)
            self._events = EventFiles(events, wanted=tensorboard)
            self._saved = find_start(self.folder, resume, self.note)
            self._take_up(seed, deterministic=deterministic)
        except BaseException:
            lock.release()
            raise

    def _take_up(self, seed: int | None, *, deterministic: bool) -> None:
        """Take over what the snapshot says, or begin."""
        if deterministic:
            use_deterministic_algorithms()
        facts = read_run_file(self.folder)
        saved = self._saved
        extra: Mapping[str, Any] = {} if saved is None else saved.extra
        if saved is not None and extra.get("version") != EXTRA_VERSION:
            raise RunError(f"{saved.path}: written by another version of rekindle", do="pip install --upgrade rekindle")
        self.seed = choose_seed(
            self.folder, seed, extra.get("seed", (facts or {}).get("seed")), begun=saved is not None
        )
        now = environment.describe()
        forked = saved is not None and not is_snapshot_of(self.folder, saved.path)
        if saved is not None:
            self._steps_done = saved.step
            self.state = extra.get("state", {})
            self._updater.skipped = extra.get("skipped_steps", 0)
            best = extra.get("best")
            self._saver.best = None if best is None or forked else Best(best["value"], best["step"])
            self._finished, self._finished_total = extra.get("finished", False), extra.get("epochs", 0)
            self._resume_place = Place.decode(place_in(saved))
            if not forked:
                self._saver.take_up(saved, self._resume_place)
            self._say_where(saved)
            finite_step = saved.manifest.facts.get("finite_step", saved.step)
            self._saver.finite_step = finite_step if isinstance(finite_step, int) and not forked else None
            if finite_step != saved.step:
                source = os.path.dirname(os.path.dirname(saved.path))
                good = finite_step if isinstance(finite_step, int) else None
                self._saver.say_not_finite(f"{saved.path}: a parameter in it", good, source, self.note)
            before = extra.get("environment", {})
            threads = environment.adopt_threads(before)
            if threads is not None:
                self.note(threads)
                now["threads"] = torch.get_num_threads()
            for line in environment.differences(before, now):
                self.note(line)
            settings = extra.get("settings", {})
            for name in _DECIDE_BITS:
                was = settings.get(name, self._settings[name])
                if was != self._settings[name]:
                    self.note(f"{name} was {was}, is {self._settings[name]}; the bits differ from here on")
            self._ranks_before = extra.get("world_size", 1)
            if self._ranks_before != self.world_size:
                self.note(_other_world(self._ranks_before, self.world_size, same_bits=self._elastic is not None))
        else:
            # The last life saved nothing: what it logged belongs to steps that are made again.
            self._metrics.cut(0)
            self._events.cut({})
        if saved is not None and not forked:
            log = extra.get("log")  # without it nothing is cut
            self._log_sizes = (
                (self._metrics.size, self._events.sizes()) if log is None else (log["metrics"], log["events"])
            )
        self._environment = now
        self.epoch = self._resume_place.epoch
        self.places = Places(self._resume_place)
        if not self.rank and (facts is None or saved is None):
            write_run_file(
                self.folder,
                {
                    "seed": self.seed,
                    "settings": self._settings,
                    "command": command_of_this_run(),
                    "environment": now,
                    "world_size": self.world_size,
                    "began_from": None if saved is None else saved.path,
                },
            )

    def _say_where(self, saved: Saved) -> None:
        place = self._resume_place
        batch = place.loops[place.current][0] if place.current is not None else 0
        where = f"epoch {place.epoch}" + (f", batch {batch}" if batch else "")
        if not self._finished:
            self.note(f"{self.folder}: goes on after step {saved.step:,} ({where}) from {os.path.basename(saved.path)}")

    def _begin(self) -> None:
        """Do once, when the loop is entered: everything is restored by now."""
        if self._begun:
            return
        if self._closed:
            raise RunError(f"{self.folder}: the run is closed", do="open it again: rekindle.Run(...)")
        if self._saved is not None:
            own = (DEFAULT_SCALER, _SCALER, _STOP_WHEN)  # the run's own: a setting changed, and no state is lost
            forgotten = [name for name in self._saved.names if name not in self._tracked and not name.startswith(own)]
            if forgotten:
                raise StateMismatch(
                    f"{', '.join(forgotten)}: in the snapshot of step {self._saved.step:,}, and not tracked now",
                    why="training would go on without that state",
                    do=f"track it before the loop: run.track({forgotten[0]}=...)",
                )
            metrics, events = self._log_sizes
            word = self._metrics.cut(metrics)
            if word is not None:
                self.note(word)
            self._events.cut(events)
        if self._updater.weights is not None:
            self._begin_with_half_weights(self._updater.weights)
        self._begun = True
        self._begun_at = time.monotonic()
        self.signals.install()

    def _watch(self, value: object) -> None:
        """Remember optimizers and schedulers, and learn when an optimizer is stepped."""
        if isinstance(value, torch.optim.Optimizer):
            self._optimizers.append(value)
            flag = self._was_updated
            value.register_step_post_hook(lambda *_: flag.raise_())
            if self.pitfalls is not None:
                self.pitfalls.adopt(value)
        elif isinstance(value, LRScheduler):
            self._schedulers.append(value)
            if isinstance(value, Schedule) and value.changed_from is not None:
                self.note(f"the schedule was {value.changed_from} and is {value.shape} from now on")
        elif isinstance(value, Average):
            self._averages.append(value)
        elif isinstance(value, torch.nn.parallel.DistributedDataParallel) and self._company is not None:
            self._company.adopt(value)
            self._say_inexact(value)
        elif isinstance(value, torch.nn.Module) and sharding.is_sharded_module(value):
            self._adopt_sharded(value)

    def _join(self, ranks: Ranks, timeout_s: float, settings: Mapping[str, Any]) -> Company:
        """Meet the other processes, and make sure that they are of one mind."""
        ties = tie(
            start(ranks, device_type=self.device.type, timeout_s=timeout_s, say=self.note),
            timeout_s=timeout_s,
            say=_say_from_any_rank,
        )
        if ties is None:
            raise AssertionError("one process has no company")
        alive = weakref.ref(self)
        ties.position = lambda: _position(alive())
        ties.way_back = lambda: _way_back_of(alive())
        self.signals.together = lambda number: ties.ask("leave", number)
        company = Company(ranks, ties)
        company.agree_on(settings)
        return company

    def _share_saving(self, company: Company) -> None:
        """Have all processes save at the same boundaries; what a clock says is asked for by rank 0 alone."""
        every, self._shares_saving = self._policy.every, True
        if every.seconds is not None and not self.rank:
            self._ask_to_save = _Clock(every.seconds)
        self._policy = replace(
            self._policy,
            every=replace(every, seconds=None),
            when_busy="wait",
            commit=SharedCommit(company.ties),
            keep_last=None if self.rank else self._policy.keep_last,
        )

    def _shard(self, objects: tuple[Any, ...], way: ShardWay, settings: Mapping[str, Any] | None) -> None:
        """Cut models in place, with the averages of them, and have each process save what it has."""
        if way != "fsdp":
            raise ConfigError(
                f"run.prepare(shard={way!r}) is not known"
                if way is not None
                else "run.prepare(fsdp=...) without shard",
                do='run.prepare(model, optimizer, shard="fsdp")',
            )
        if self._elastic is not None or self._updater.weights is not None:
            other = 'elastic="bits"' if self._elastic is not None else f'precision="{self._updater.precision}"'
            raise ConfigError(
                f'shard="fsdp" and {other} do not go together',
                why="sharded gradients are added up by torch, in its own order"
                if self._elastic is not None
                else "sharded weights stay float32, and are gathered in half precision",
                do="leave one of them out" if self._elastic is not None else 'Run(..., precision="bf16")',
            )
        company = self._company
        modules = [value for value in objects if isinstance(value, torch.nn.Module)]
        replaced = self._replaced = self._replaced or sharding.Repointed()
        if company is None:
            self.note('shard="fsdp": one process, so there is nothing to share out', once=True)
            for model in modules:
                before = dict(model.named_parameters(remove_duplicate=False))
                with preserved():
                    sharding.make_values(model, model, self.device, self._seed_for_weights)
                replaced.note(before, dict(model.named_parameters(remove_duplicate=False)))
            return
        for model in sorted(modules, key=lambda value: isinstance(value, Average)):
            if sharding.is_sharded_module(model):
                continue
            inner = model.module if isinstance(model, Average) else model
            before = dict(model.named_parameters(remove_duplicate=False))
            with preserved():
                sharding.shard(
                    inner,
                    self.device,
                    settings or {},
                    half=self._updater.half,
                    seed_for=self._seed_for_weights,
                    restored=self._saved is not None,
                )
            replaced.note(before, dict(model.named_parameters(remove_duplicate=False)))
            company.sharded.append(inner)
        for optimizer in self._optimizers:
            replaced.adopt(optimizer)
        self._save_in_parts(company)

    def _seed_for_weights(self, number: int) -> None:
        seed_globals(key_of(self.seed, "weights", number))

    def _adopt_sharded(self, model: torch.nn.Module) -> None:
        """Take in a model that the script has sharded itself."""
        company = self._company
        if company is None:
            self._saver.follow_policy(replace(self._policy, ranks=(0, 1)), self._steps_done)
        elif not any(known is model for known in company.sharded):
            sharding.follow_statistics(model)
            company.sharded.append(model)
            self._save_in_parts(company)

    def _save_in_parts(self, company: Company) -> None:
        """Have each process save the parts that it has."""
        if not self._shares_saving:
            self._share_saving(company)
        self._policy = replace(
            self._policy,
            commit=SharedCommit(company.ties, sharding.own_files),
            ranks=(self.rank, self.world_size),
            agree=partial(sharding.agree_on_snapshot, company.ties),
            on_saved=None if self.rank else self._policy.on_saved,
        )
        self._saver.follow_policy(self._policy, self._steps_done)
        # It looks at whole tensors, in rank 0 alone; asking a sharded one for a number would wait for the others.
        self.pitfalls = None

    def _shared_out(self, value: Any, settings: Mapping[str, Any]) -> Any:
        """Return a model as all processes train it together; anything else as it is."""
        if not isinstance(value, torch.nn.Module):
            return value
        if self._elastic is not None and not isinstance(value, Average):
            self._elastic.add(value)
            return value
        if self._company is None or isinstance(value, Average):
            sharded = isinstance(value, Average) and sharding.is_sharded_module(value.module)
            return value if self._company is None or sharded else self._company.same(value)
        ready = self._company.wrap(value, self.device, settings)
        self._say_inexact(ready)
        return ready

    def _say_inexact(self, model: torch.nn.Module) -> None:
        for word in what_is_inexact(model, self.world_size):
            self.note(word, once=True)

    def _scale_rates(self, rule: LrRule, prepared: list[object]) -> None:
        """Scale learning rates by the number of processes, or by what it changed since the snapshot."""
        if rule not in {"linear", "sqrt"}:
            raise ConfigError(f'lr_rule={rule!r} is not "linear" or "sqrt"')
        ratio = self.world_size / self._ranks_before
        factor = ratio if rule == "linear" else math.sqrt(ratio)
        if factor != 1:
            scale_rates(factor, prepared)
            self.note(f"lr_rule: learning rates times {factor:.4g}, for {self.world_size} processes")

    def _track_own(self, name: str, value: object) -> None:
        """Track something of the run itself; a snapshot that lacks it comes from before it was asked for."""
        if self._saved is None or name in self._saved.names:
            self.track(**{name: value})
        else:
            self._tracked[name] = value

    def _refuse_several_scales(self) -> None:
        """Refuse a scale of a loss's own where gradients of two scales cannot be told apart."""
        sharded = self._company is not None and bool(self._company.sharded)
        if self._elastic is not None or sharded:
            other = 'elastic="bits"' if self._elastic is not None else 'shard="fsdp"'
            raise ConfigError(
                f"run.backward(loss, scaler=...) and {other} do not go together",
                why="gradients of all losses are added up before they are unscaled",
                do='add the losses: run.backward(loss_a + loss_b), or Run(..., precision="bf16"), which needs no scale',
            )

    def _share_buffers(self) -> None:
        """Have all processes go on with rank 0's buffers, those of averages included."""
        if self._company is None:
            return
        self._company.end_loop()
        for average in self._averages:
            if not average.is_swapped and not sharding.is_sharded_module(average.module):
                self._company.same_tensors(average.module.buffers())

    def _track_scalers(self) -> None:
        if not self._updater.scalers:
            return
        self._track_own(DEFAULT_SCALER, self._updater.scaler)
        for name in () if self._saved is None else self._saved.names:
            if name.startswith(_SCALER):
                self._track_own(name, self._updater.scaler_named(name))

    def _begin_with_half_weights(self, half: HalfWeights) -> None:
        if not half.any_model:
            raise RunError(
                f"precision {self._updater.precision} makes weights half in run.prepare, and no model was prepared",
                do="model, optimizer = run.prepare(model, optimizer)",
            )
        changed = half.begin()
        if changed:
            self.note(f"{changed} weights were loaded after run.prepare; their float32 copies were taken from them")

    def _free_name(self, value: object) -> str:
        if isinstance(value, Average):
            base = "average"
        elif isinstance(value, torch.nn.Module):
            base = "model"
        elif isinstance(value, torch.optim.Optimizer):
            base = "optimizer"
        elif isinstance(value, LRScheduler):
            base = "scheduler"
        else:
            base = type(value).__name__.lower()
        return self._numbered(base)

    def _numbered(self, base: str) -> str:
        number = self._prepared.get(base, 0) + 1
        self._prepared[base] = number
        return base if number == 1 else f"{base}_{number}"

    # ---- epochs, loops, boundaries

    def _walk_epochs(self, total: int) -> Iterator[int]:
        self._in_epochs, self._left_early = True, True
        self._epochs_total = total
        if self._company is not None:
            self._company.ties.unfinished = True
        try:
            while self.epoch < total:
                epoch = self.epoch
                self.places.begin_epoch(epoch)
                steps_before = self._steps_done
                place = self._resume_place if epoch == self._resume_place.epoch else Place(epoch)
                self._clean = False
                self._mark = self._mark_with_print(place)
                seed_globals(key_of(self.seed, "epoch", epoch))
                yield epoch
                if self._steps_done == steps_before and self.places.any_loop and not self._resume_place.loops:
                    self.note(f"epoch {epoch} made no step: call run.step() after each optimizer update", once=True)
                if self._turn(epoch, last=self._is_stopping() or epoch + 1 == total):
                    break
            self._left_early = False
            if self._company is not None:
                self._company.ties.unfinished = False
        finally:
            self._in_epochs = False
            self._mark = None
            # After the loop there is no boundary any more: a signal means again what it means to any script.
            self.signals.close()
        if self._progress is not None:
            self._progress.close()

    def _is_stopping(self) -> bool:
        """Whether this epoch is to be the last: the loop said so, or patience is over."""
        for known in self._patience:
            if known.is_over:
                self.note(f"{self.folder}: stops after epoch {self.epoch}: {known}", once=True)
                self._stop_asked = True
        return self._stop_asked

    def _turn(self, epoch: int, *, last: bool) -> bool:
        """Do what is due at the end of an epoch's body; return `last`."""
        if self.pitfalls is not None:
            self.pitfalls.end_epoch(self)
        self.epoch = epoch + 1
        if self._in_window(at_turn=True) and not last:
            return False  # gradients are on their way into the next epoch: its first boundary will do
        self.places.begin_epoch(epoch + 1)
        if last:
            self._finished, self._finished_total = True, self._epochs_total
        every = self._policy.every.epochs
        if last or self._is_due() or self.signals.requested is not None or (every and (epoch + 1) % every == 0):
            self._write(self._mark_now(Place(epoch + 1)), finished=last, at_once=last)
        if self.signals.requested is not None:
            self._leave(None)
        return last

    def _arrive(self, loop: Loop) -> None:
        """Do what is due where the next batch of a loop is asked for."""
        self.places.arrive(loop)
        if not self._clean or self._is_lent():
            return
        if self.signals.requested is not None:
            self._leave(self._mark_now(self.places.place(loop)))
        # At the end of an epoch's loop the end of its body is near, and the snapshot there says more.
        if self._is_due() and not (self._in_epochs and loop.is_at_its_end):
            self._write(self._mark_now(self.places.place(loop)))

    def _finish_loop(self, loop: Loop) -> None:
        """Note the end of a loop: a place to leave from as long as nothing changes."""
        loop.finished = True
        loop.length = loop.delivered
        if self._clean:
            self._share_buffers()
        if self.pitfalls is not None:
            self.pitfalls.end_loop(self, loop)
        seed_globals(key_of(self.seed, "after", self.epoch, *loop.path))
        if self._clean and loop.around is None:
            self._mark = self._mark_with_print(self.places.place(loop))

    def _step_without_batches(self) -> None:
        """Reseed, and outside of epochs do what is due at once."""
        if self._saved is not None and not self._placed and not self._in_epochs:
            self.note(
                "this loop did not ask run.steps_done where to begin, so what its first step drew is not what "
                "the undisturbed run drew: for step in range(run.steps_done, ...)",
                once=True,
            )
        seed_globals(key_of(self.seed, "step", self._steps_done))
        if self._in_epochs:
            if self.signals.requested is not None:
                self.note("will leave at the end of this epoch: only run.batches can be resumed inside one", once=True)
            return
        if self.signals.requested is not None:
            self._leave(self._mark_now(Place(self.epoch)))
        if self._is_due():
            self._write(self._mark_now(Place(self.epoch)))

    def _inside_a_loop(self) -> bool:
        loop = self.places.current
        return loop is not None and not loop.finished and self.places.is_walked(loop)

    def _in_accumulation(self) -> bool:
        """Whether more batches belong to the window of `accumulate`."""
        loop = self.places.current
        if self.accumulate == 1 or loop is None:
            return False
        return not window_at(loop.delivered - 1, self.accumulate, loop.length).closes

    def _in_window(self, *, at_turn: bool = False) -> bool:
        """Whether gradients are waiting for more batches."""
        if self.accumulate > 1 and not at_turn and self._in_accumulation():
            return True
        if self._was_updated.up or not self._optimizers or (at_turn and self._clean):
            return False
        return self._updater.holds_gradients(self._optimizers)

    # ---- among several processes

    @property
    def is_elastic(self) -> bool:
        """Whether bits do not depend on the number of processes."""
        return self._elastic is not None

    @property
    def takes_part(self) -> bool:
        """Whether `begin_batch` has anything to do."""
        return self._company is not None or self._elastic is not None

    def begin_batch(self, share: Share | None) -> None:
        """Set up what the passes of the batch do that was just handed out; called by `Batches`."""
        loop = self.places.current
        self.batch_weight = weight = 1.0 if share is None else share.weight
        if self._elastic is not None:
            part = 0 if loop is None else (loop.delivered - 1) % self._elastic.parts
            self._elastic.begin(part, weight)
        elif self._company is not None:
            self._company.begin_batch(weight, closes=not self._in_accumulation())

    # ---- saving

    def _is_due(self) -> bool:
        if self._company is not None:
            if self._ask_to_save is not None and self._ask_to_save.is_over():
                self._company.ties.ask("save")
            if self._steps_done >= self._company.ties.hold_at:
                self._heed(self._company)
        return self._saver.is_due(self._steps_done)

    def _heed(self, company: Company) -> None:
        """Do what all processes agreed to do at this boundary."""
        for decision in company.ties.settle(self._steps_done):
            if decision.kind == "leave":
                self.signals.requested = signal.Signals(decision.detail)
            else:
                self._saver.ask()

    def _mark_now(self, place: Place | None = None) -> Mark:
        if place is None:
            loop = self.places.current
            place = self.places.place(loop) if loop is not None else Place(self.epoch)
        return Mark(place, self._steps_done, self._metrics.size, self._events.sizes())

    def _mark_with_print(self, place: Place) -> Mark | None:
        """Return a mark that can be told from a changed state.

        None where telling has cost enough: half a second, and 1 % of the time since the loop was entered.
        """
        began = time.monotonic()
        if self._prints_cost_s > 0.5 + 0.01 * (began - self._begun_at):
            return None
        seen = fingerprint(self.tracked_now())
        self._prints_cost_s += time.monotonic() - began
        return None if seen is None else replace(self._mark_now(place), print=seen)

    def _write(self, mark: Mark, *, finished: bool = False, at_once: bool = False) -> None:
        """Save the state as it is, which must be that of `mark`; with `at_once`, return when it is promised.

        Raises:
            RunError: the loss is not finite, or there is no room.
            OSError: the disk is full or failing. The earlier snapshots are untouched.
        """
        self._check_loss()
        if self._is_lent():
            raise RunError(
                "nothing can be saved inside average.swapped()",
                why="the model holds the averaged weights just now, not its own",
                do="call run.save() and run.step() outside of the with block",
            )
        if self._company is not None and self._shares_saving:
            self._share_buffers()  # any of the processes may write them
        elif self.rank:
            self._saver.follow(mark)
            return
        extra = {
            "seed": self.seed,
            "state": self.state,
            **({"skipped_steps": self._updater.skipped} if self._updater.skipped else {}),
            "environment": self._environment,
            "settings": {name: self._settings[name] for name in _DECIDE_BITS},
            "epochs": self._finished_total if finished else self._epochs_total,
            "world_size": self.world_size,
        }
        self._saver.save(
            mark,
            self._tracked,
            extra,
            self.note,
            metrics_size=self._metrics.size,
            finished=finished,
            at_once=at_once,
        )

    def _check_loss(self) -> None:
        loss, self._last_loss = self._last_loss, None
        if loss is not None and not math.isfinite(loss.item()):
            raise self._not_finite(loss)

    def _way_back(self) -> str:
        self._settle_last()
        return self._saver.way_back()

    def _not_finite(self, loss: torch.Tensor) -> RunError:
        loop = self.places.current
        where = f"epoch {self.epoch}" + (f", batch {loop.delivered - 1}" if loop is not None else "")
        self._settle_last()
        return not_finite_loss(loss.item(), self._steps_done, where, self._saver.what_is_kept())

    def _rates(self) -> dict[str, float]:
        """Return the learning rates, as they are logged: ``lr``, or one per optimizer and group."""
        found: dict[str, float] = {}
        for optimizer in self._optimizers:
            name = "lr"
            if len(self._optimizers) > 1:
                name += "_" + next(known for known, value in self._tracked.items() if value is optimizer)
            for number, group in enumerate(optimizer.param_groups):
                found[name if number == 0 else f"{name}_{number}"] = float(group["lr"])
        return found

    # ---- leaving

    def _may_leave(self) -> bool:
        """Whether the state is still that of the last mark; asked by the signal handler where the run waits."""
        mark = self._mark
        return mark is not None and fingerprint(self.tracked_now()) == mark.print

    def _is_lent(self) -> bool:
        """Whether a model holds averaged weights just now."""
        return any(average.is_swapped for average in self._averages)

    def _ask_to_leave_in_time(self) -> None:
        if self.signals.requested is None and self._limit is not None:
            left = self._limit.left_s()
            text = f"time_limit: {max(0.0, left):.0f} s are left for steps; saving at this boundary, then leaving"
            if self.signals.asked is None:
                self.note(text)
            # What a scheduler would send a little later.
            if self._company is None:
                self.signals.requested = signal.SIGTERM
            else:
                self.signals.ask_all(signal.SIGTERM)

    def _leave_where_it_waits(self, loop: Loop) -> None:
        """Leave while waiting for a batch, if the state is whole; go on where it is not."""
        if self._is_lent():
            return
        if self._clean:
            self._leave(self._mark_now(self.places.place(loop)))
        elif self._may_leave():
            self._leave(self._mark)

    def _leave(self, mark: Mark | None) -> NoReturn:
        """Save what is not saved yet, say so, and end the process with the code that the signal asks for."""
        self.signals.interruptible = False
        code = self.signals.exit_code
        try:
            failed = self._settle_last()
            if mark is not None and not self._saver.is_saved(mark):
                self._write(mark, at_once=True)
            elif failed is not None:
                raise failed
            self.note(f"{self.folder}: saved after step {self._steps_done:,}; the same command goes on from there")
            if self._company is not None:  # a launcher ends all when one ends
                self._company.ties.gather("leaving", None)
        finally:
            kill_workers()
            self._shut()
        raise SystemExit(code)

    # ---- showing

    def _show_progress(self) -> None:
        now = time.monotonic()
        loop = self.places.current
        at_end = loop is not None and loop.is_at_its_end
        if now < self._next_show and not at_end:
            return
        self._next_show = now + _SHOW_EVERY_S
        self.progress.update(
            epoch=self.epoch,
            epochs=self._epochs_total or None,
            batch=0 if loop is None else loop.delivered,
            batches=None if loop is None else loop.length,
            steps_done=self._steps_done,
            values=self._shown,
        )


class _Clock:
    """Tells, once in each period, that it is over.

    Args:
        seconds: of a period.
    """

    def __init__(self, seconds: float) -> None:
        """Begin one now."""
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def is_over(self) -> bool:
        """Tell whether the period is over; then the next one begins."""
        over = time.monotonic() >= self._until
        if over:
            self._until = time.monotonic() + self._seconds
        return over


class _Flag:
    """Whether a tracked optimizer was stepped since the last boundary; hooks hold this, so that they hold no run."""

    def __init__(self) -> None:
        self.up = False

    def raise_(self) -> None:
        self.up = True


def _make_elastic(elastic: str | None, shards: int, accumulate: int, ranks: Ranks) -> Elastic | None:
    if elastic is None:
        return None
    if elastic != "bits":
        raise ConfigError(f"elastic={elastic!r} is not known", do='elastic="bits", or leave it out')
    if accumulate != 1:
        raise ConfigError(
            'elastic="bits" and accumulate= do not go together',
            why="the shards of a batch are accumulated already",
            do="leave accumulate out, and use a larger global_batch_size and more shards",
        )
    return Elastic(shards, ranks.rank, ranks.world_size)


def _other_world(before: int, now: int, *, same_bits: bool) -> str:
    line = f"the run was on {before} process{'es' * (before != 1)}, and is on {now} now: every sample still comes once"
    return line + (", and the bits are the same" if same_bits else "; the bits differ from here on")


def _say_from_any_rank(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"rekindle: {text}", file=sys.stderr, flush=True)  # noqa: T201 - about a rank that cannot speak itself


def _position(run: Run | None) -> int | None:
    return None if run is None or run._closed else run._steps_done  # noqa: SLF001 - asked by the ties' thread


def _way_back_of(run: Run | None) -> str:
    return "start it again" if run is None else run._saver.way_back()  # noqa: SLF001 - as above


def _recorder() -> Recorder | None:
    if not os.environ.get(EVIDENCE_VARIABLE):
        return None
    from rekindle.run.evidence import recorder_from_environment  # noqa: PLC0415 - only under `rekindle prove`

    return recorder_from_environment()


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise ConfigError(f"{name}={count!r} is not a whole number of at least 1")


def _close_display(run: weakref.ref[Run]) -> None:
    """Leave the terminal as it was when the process ends with the display open."""
    alive = run()
    if alive is not None and alive._progress is not None:  # noqa: SLF001 - the run's own
        alive._progress.close()  # noqa: SLF001 - as above
