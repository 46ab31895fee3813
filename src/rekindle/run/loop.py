"""`Run`: what turns a training loop of one's own into one that survives anything.

The loop stays the user's. `Run` gives it a position (epochs and batches), a boundary (`run.step`), snapshots of all
that is tracked, and the way back. Between two boundaries nothing is ever saved, so a snapshot is always a state that
the undisturbed run went through; and everything drawn at random is a function of the position (`randomness.py`), so the
resumed run goes through the same states after it. What is behind each of its names is listed in `core.py`.

Law: same seed, same settings, same machine: the same bits, however often and wherever the process was killed.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

import torch

from rekindle.errors import ConfigError, RunError
from rekindle.parallel.company import How
from rekindle.parallel.ranks import DEFAULT_TIMEOUT_S, find_ranks
from rekindle.pitfalls._watch import Watch
from rekindle.run import boundary, journal, leaving, marks, opening, preparing, together, tracking
from rekindle.run.batches import Batches
from rekindle.run.core import Core
from rekindle.run.early_stop import Patience
from rekindle.run.loader import Loader, Share, make_loader
from rekindle.run.policy import Best, parse_best
from rekindle.run.precision import Updater, meaning, window_at
from rekindle.run.preparing import LrRule, ShardWay
from rekindle.run.randomness import key_of, seed_all, seed_globals
from rekindle.run.settings import check_settings
from rekindle.run.start import choose_folder
from rekindle.run.voice import Voice
from rekindle.run.workers import dead_worker
from rekindle.store.commit import Committed
from rekindle.store.layout import snapshot_path

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from rekindle.run.evidence import Recorder
    from rekindle.run.progress import ProgressDisplay

__all__ = ["Run"]

EVIDENCE_VARIABLE = "REKINDLE_EVIDENCE"

_One = TypeVar("_One")
_Two = TypeVar("_Two")
_Three = TypeVar("_Three")


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
        ranks = find_ranks()
        settings = check_settings(
            ranks,
            seed=seed,
            save_every=save_every,
            keep_last=keep_last,
            keep_every=keep_every,
            keep_best=keep_best,
            keep_best_mode=keep_best_mode,
            precision=precision,
            accumulate=accumulate,
            device=device,
            deterministic=deterministic,
            time_limit=time_limit,
            on_saved=on_saved,
            background=background,
            when_busy=when_busy,
            elastic=elastic,
            shards=shards,
            save_by=save_by,
        )
        self._core = core = Core(
            settings,
            ranks.rank,
            ranks.world_size,
            settings.device,
            Voice(ranks.rank, progress=progress),
            Updater(settings.precision, settings.device),
            evidence=None if ranks.rank else _recorder(),
            pitfalls=Watch() if watch and not ranks.rank else None,
        )
        core.folder = choose_folder(folder, core.note)
        together.meet(core, ranks, timeout_s, {**settings.words, "seed": seed, "folder": core.folder})
        opening.open_run(core, seed=seed, resume=resume, tensorboard=tensorboard)
        self.folder, self.seed, self.device = core.folder, core.seed, core.device
        self.rank, self.world_size, self.accumulate = core.rank, core.world_size, settings.accumulate
        if settings.level is not None:
            core.note(meaning(settings.level, core.device))
        tracking.track_scales(core)
        seed_all(key_of(core.seed, "start"))

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
        tracking.track(self._core, objects)

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
        ready = preparing.prepare(self._core, objects, shard=shard, ddp=ddp, fsdp=fsdp, lr_rule=lr_rule)
        return ready[0] if len(ready) == 1 else ready

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
        core, shards = self._core, None
        if core.settings.elastic is not None:
            shards = core.settings.elastic.shards
            if settings.get("global_batch_size") is None:
                raise ConfigError(
                    'elastic="bits" needs run.loader(..., global_batch_size=)',
                    why="batch_size is that of each process, so the batches of all would depend on their number",
                    do=f"run.loader(dataset, global_batch_size={shards * 8})",
                )
        made = make_loader(dataset, seed=core.seed, ranks=(core.rank, core.world_size), shards=shards, **settings)
        if core.pitfalls is not None:
            core.pitfalls.knows(made)
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
        core = self._core
        boundary.begin(core)
        if core.finished and (core.epoch >= total or core.finished_total >= total):
            core.note(
                f"{core.folder}: already complete ({core.epoch} epochs, {core.steps_done:,} steps); "
                f"run.epochs({total + 1}) or more goes on from here"
            )
            return iter(())
        core.finished = False
        core.signals.install()
        return boundary.walk_epochs(core, total)

    def batches(self, source: Any) -> Batches:
        """Walk over the batches that are left of this loop.

        Args:
            source: a loader of `run.loader`, a DataLoader of one's own, or anything iterable.

        Raises:
            StateMismatch: the run was interrupted in this loop, and its loader has changed.
            RunError: accumulation with a loader that does not know its length.
        """
        boundary.begin(self._core)
        return Batches(self._core, source)

    def step(self) -> None:
        """Count an optimizer update and mark the state as whole; call it once per update, last in the loop's body.

        Inside an accumulation window it does nothing: neither in one of ``accumulate=``, nor in one made by hand
        (a tracked optimizer was not stepped, and there are gradients).
        """
        boundary.step(self._core)

    def save(self) -> None:
        """Save at the next boundary; outside the loop, at once."""
        core = self._core
        if core.in_epochs or core.is_inside_a_loop():
            core.saver.ask()
        elif not core.begun and core.saved is not None:
            marks.save_now(core, marks.mark_now(core, core.resume_place), at_once=True)
        else:
            marks.save_now(core, marks.mark_now(core), finished=core.finished, at_once=True)

    def stop(self) -> None:
        """End the run after this epoch, as if it were the last: for early stopping."""
        self._core.stop_asked = True

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
        tracking.track_patience(self._core, Patience(rule, patience, min_delta))

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
        journal.log(self._core, values)

    def show(self, **values: Any) -> None:
        """Have values stand in the progress display; they are read only when it is drawn."""
        self._core.voice.keep(values)

    def evaluating(self, *models: torch.nn.Module) -> AbstractContextManager[None]:
        """Have models in eval mode and no gradients recorded; afterwards each module is as it was.

        Args:
            *models: None for all that are tracked.
        """
        return leaving.evaluating(self._core, models)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which to compute the loss, for this run's precision."""
        return self._core.updater.autocast()

    def backward(self, loss: torch.Tensor, *, scaler: str | int | None = None, **settings: Any) -> None:
        """Add the loss's gradients, scaled for the precision and divided by the accumulation window's length.

        Args:
            loss: one number.
            scaler: a name for the loss's own scale, where several losses need different ones; made when it is first
                named, and saved. None for the one that all others share. Where the precision has no scale it means
                nothing.
            **settings: as of `torch.Tensor.backward`.

        Raises:
            TypeError: the loss is no tensor, or has more than one number.
            RunError: the loss is not finite; nothing was changed. On a GPU this is found at the next save, since
                looking at every loss would make the processor wait for the device.
        """
        core = self._core
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise TypeError(_what_is_no_loss(loss))
        if loss.device.type == "cpu":
            if not math.isfinite(loss.item()):
                raise marks.not_finite(core, loss)
        else:
            core.last_loss = loss.detach()
        loop, accumulate = core.places.current, core.settings.accumulate
        length = 1
        if accumulate > 1 and loop is not None and core.settings.elastic is None:
            length = window_at(loop.delivered - 1, accumulate, loop.length).length
        name = None if scaler is None else tracking.track_scale(core, scaler)
        if core.company is not None:
            core.company.begin_backward()
        core.updater.backward(loss, length, scaler=name, optimizers=core.tracked.optimizers, **settings)

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
            ConfigError: a bound that cannot be meant.
            RunError: no optimizer is tracked, or not this one.
        """
        core = self._core
        known = core.tracked.optimizers
        chosen = list(optimizers) or known
        if any(all(one is not tracked for tracked in known) for one in optimizers):
            raise RunError(
                "run.update(optimizer): this optimizer is not tracked",
                why="its moments would be in no snapshot, and begin anew after a resume",
                do="run.track(optimizer=optimizer) before the loop, or run.prepare(model, optimizer)",
            )
        if not chosen:
            raise RunError(
                "run.update() has no optimizer", do="run.prepare(model, optimizer), or run.track(optimizer=optimizer)"
            )
        if core.is_in_accumulation():
            return False
        if core.settings.elastic is not None:
            core.settings.elastic.finish()
        core.updater.update(
            chosen,
            core.tracked.schedulers,
            clip_norm=clip_norm,
            clip_value=clip_value,
            all_optimizers=max(1, len(known)),
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
        if self._core.company is not None:
            self._core.company.ties.gather("run.barrier", None)

    @contextlib.contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Have rank 0 go through the block before the others do: to download or prepare data once.

        The others wait as long as it takes.
        """
        company = self._core.company
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
        if self._core.company is None:
            return value
        reduced: _One = self._core.company.reduce(value, how, weight)
        return reduced

    def begin_batch(self, share: Share | None) -> None:
        """Set up what the passes of a batch do, for a loop that is another library's; `batches` does it itself.

        Args:
            share: this process's part of the batch of all; None where all have as much.
        """
        boundary.begin_batch(self._core, share)

    # ---- what can be looked at

    @property
    def epoch(self) -> int:
        """The epoch in progress, from 0."""
        return self._core.epoch

    @property
    def state(self) -> dict[str, Any]:
        """Plain values and tensors of the script's own that survive."""
        return self._core.state

    @state.setter
    def state(self, values: dict[str, Any]) -> None:
        self._core.state = values

    @property
    def batch_weight(self) -> float:
        """How much the batch at hand counts here; see the attributes of `Run`."""
        return self._core.batch_weight

    @property
    def steps_done(self) -> int:
        """Optimizer updates, in all lives of the run.

        A loop without `epochs` and `batches` asks for this to know where to begin, so that is where such a loop gets
        its place in the random numbers back: ``for step in range(run.steps_done, 1000)``.
        """
        core = self._core
        if core.saved is not None and not core.begun and not core.placed:
            core.placed = True
            seed_globals(key_of(core.seed, "step", core.steps_done))
        return core.steps_done

    @property
    def skipped_steps(self) -> int:
        """Optimizer updates that fp16 left out because a gradient had overflowed, in all lives of the run."""
        return self._core.updater.skipped

    @property
    def best(self) -> Best | None:
        """The best snapshot so far by ``keep_best``, None while there is none."""
        best = self._core.saver.best
        if best is None:
            return None
        path = snapshot_path(self._core.lock.path, best.step)
        return Best(best.value, best.step, path if os.path.isdir(path) else None)

    @property
    def resumed_from(self) -> str | None:
        """Path of the snapshot that this life of the run went on from; None where it began."""
        saved = self._core.saved
        return None if saved is None else saved.path

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done and saved."""
        return self._core.finished

    @property
    def tensorboard(self) -> SummaryWriter | None:
        """TensorBoard's `SummaryWriter` of this run, for histograms, images and more; None where there is none."""
        return self._core.logs.events.writer

    @property
    def progress(self) -> ProgressDisplay:
        """The progress display, made when it is first asked for."""
        return self._core.voice.display(self._core.epochs_total or None)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: it holds its folder, which two processes cannot.
        """
        raise TypeError("cannot pickle a Run, which holds its folder; give a data set the values, not the run")

    def tracked_now(self) -> dict[str, object]:
        """Return everything that a snapshot would hold, by name."""
        return self._core.tracked_now()

    def note(self, text: str, *, once: bool = False) -> None:
        """Say something on stderr, above the progress display.

        Args:
            text: one line.
            once: leave it out if it was said before.
        """
        self._core.note(text, once=once)

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
        core = self._core
        if core.company is not None and error is not None:
            core.company.tell_failure(error)
        self._close(save=kind is None)
        dead = dead_worker(error, marks.way_back(core))  # torch raises it from a signal handler, wherever the loop is
        if dead is not None:
            raise dead from error

    def _close(self, *, save: bool) -> None:
        leaving.close(self._core, save=save)

    def _shut(self) -> None:
        leaving.shut(self._core)


def _recorder() -> Recorder | None:
    if not os.environ.get(EVIDENCE_VARIABLE):
        return None
    from rekindle.run.evidence import recorder_from_environment  # noqa: PLC0415 - only under `rekindle prove`

    return recorder_from_environment()


def _what_is_no_loss(loss: object) -> str:
    if isinstance(loss, torch.Tensor):
        return f"run.backward(loss): the loss has the shape {list(loss.shape)}; one number is wanted: loss.mean()"
    return f"run.backward(loss): a tensor is wanted, not {type(loss).__name__}; without .item(), which drops the graph"
