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

Law: same seed, same settings, same machine: the same bits, however often and wherever the process was killed.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

import torch
from torch.optim.lr_scheduler import LRScheduler

from rekindle.devices.move import device_named, to_device
from rekindle.errors import ConfigError, RunError, StateMismatch
from rekindle.run import environment
from rekindle.run.batches import Batches
from rekindle.run.changes import fingerprint
from rekindle.run.loader import Loader, make_loader
from rekindle.run.log import EventFiles, MetricsFile, plain_value
from rekindle.run.places import Loop, Place, Places
from rekindle.run.policy import Best, BestRule, parse_best, parse_save_every
from rekindle.run.precision import Updater, parse_precision, window_at
from rekindle.run.randomness import key_of, seed_all, seed_globals
from rekindle.run.schedules import Schedule
from rekindle.run.signals import Leaving, SignalWatch
from rekindle.run.snapshot import Captured, Saved, capture, kind_of_tracked, restore
from rekindle.run.start import (
    choose_folder,
    choose_seed,
    find_start,
    is_snapshot_of,
    naming_disk_of,
    place_in,
    refuse_without,
)
from rekindle.run.workers import dead_worker, kill_workers
from rekindle.store.commit import Committed, clean_leftovers, commit
from rekindle.store.layout import (
    METRICS_NAME,
    TENSORBOARD_NAME,
    check_run_folder,
    read_run_file,
    snapshot_path,
    write_run_file,
)
from rekindle.store.lock import RunLock, hold
from rekindle.store.retention import prune

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from rekindle.run.evidence import Recorder
    from rekindle.run.progress import ProgressDisplay

__all__ = ["Run"]

EVIDENCE_VARIABLE = "REKINDLE_EVIDENCE"
_EXTRA_VERSION = 1
_SHOW_EVERY_S = 0.1
# Settings that may change between two lives, and are said then.
_DECIDE_BITS = ("precision", "accumulate", "device", "deterministic")
# As `plain_value` writes them.
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")

_One = TypeVar("_One")
_Two = TypeVar("_Two")
_Three = TypeVar("_Three")


@dataclass(frozen=True, slots=True)
class _Mark:
    """A boundary: what a snapshot taken there has to say about itself.

    Attributes:
        place: where to go on.
        steps_done: updates counted by then.
        metrics_size: bytes of metrics.jsonl by then.
        event_sizes: sizes of TensorBoard's files by then.
        print: fingerprint of the tracked state then; None where the mark is used at once.
    """

    place: Place
    steps_done: int
    metrics_size: int
    event_sizes: Mapping[str, int]
    print: int | None = None


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
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``, for `autocast`, `backward` and `update`.
        accumulate: batches whose gradients make one update, for `backward` and `update`.
        device: for `prepare`: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        deterministic: have torch use deterministic algorithms only, which exactness on a GPU needs; slower.
        tensorboard: write event files; None for "where TensorBoard is installed".
        progress: show progress on stderr; None for "on a terminal".
        on_saved: called with each snapshot (``.step``, ``.path``) once it is on the disk to stay.

    Attributes:
        folder: where the run lives.
        seed: of everything.
        epoch: the epoch in progress, from 0.
        state: plain values and tensors of the script's own that survive.
        device: where `prepare` brings things.
        accumulate: as given.
        rank, world_size: 0 and 1.

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
        tensorboard: bool | None = None,
        progress: bool | None = None,
        on_saved: Callable[[Committed], object] | None = None,
    ) -> None:
        """Take the run's folder, and find where to go on; nothing is restored before `track`."""
        self._every = parse_save_every(save_every)
        self._best_rule = parse_best(keep_best, keep_best_mode)
        _check_counts(keep_last=keep_last, keep_every=keep_every, accumulate=accumulate)
        if seed is not None and (not isinstance(seed, int) or not 0 <= seed < 2**64):
            raise ConfigError(f"seed={seed!r} is not a whole number from 0 to 2**64 - 1")
        self.device = device_named(device)
        self._updater = Updater(parse_precision(precision, self.device), self.device)
        self.accumulate = accumulate
        self.rank, self.world_size = 0, 1
        self.moves_batches = False
        self.signals = SignalWatch()
        self.state: dict[str, Any] = {}
        self._steps_done = 0
        self._placed = False
        self.evidence = _recorder()
        self.epoch = 0
        self.places = Places()
        self._best: Best | None = None
        self._finite_step: int | None = None
        self._said_not_finite = False
        self._odd_metrics: set[str] = set()
        self._finished, self._finished_total = False, 0
        self._resume_place = Place()
        self._last_saved_step = -1
        self._last_saved_place: Place | None = None
        self._log_sizes: tuple[int, Mapping[str, int]] = (0, {})
        self._keep_last, self._keep_every = keep_last, keep_every
        self._on_saved = on_saved
        self._progress_wanted = (sys.stderr is not None and sys.stderr.isatty()) if progress is None else progress
        self._progress: ProgressDisplay | None = None
        self._shown: dict[str, Any] = {}
        self._next_show = 0.0
        self._said: set[str] = set()
        self._tracked: dict[str, object] = {}
        self._prepared: dict[str, int] = {}
        self._optimizers: list[torch.optim.Optimizer] = []
        self._schedulers: list[LRScheduler] = []
        self._was_updated = _Flag()
        self._last_loss: torch.Tensor | None = None
        self._captured: Captured | None = None
        self._settings = {
            "save_every": save_every,
            "keep_last": keep_last,
            "keep_every": keep_every,
            "keep_best": keep_best,
            "precision": self._updater.precision,
            "accumulate": accumulate,
            "device": str(self.device),
            "deterministic": deterministic,
        }

        self.folder = choose_folder(folder, self.note)
        with naming_disk_of(self.folder):
            self._open(seed, resume, tensorboard=tensorboard, deterministic=deterministic)
        self._closed = False
        self._begun = False
        self._in_epochs = False
        self._epochs_total = 0
        self._left_early = False
        self._stop_asked = False
        self._best_pending: float | None = None
        self._next_step: float = math.inf
        self._clean = False
        self._mark: _Mark | None = None
        self._begun_at, self._prints_cost_s = 0.0, 0.0
        self._plan_next_save()
        if self._updater.scaler is not None:
            self.track(scaler=self._updater.scaler)
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
        if self._saved is not None:
            for note in restore(self._saved, new, context={**self._tracked, **new}).notes:
                self.note(note)
        self._tracked.update(new)
        for value in new.values():
            self._watch(value)

    @overload
    def prepare(self, single: _One, /) -> _One: ...
    @overload
    def prepare(self, first: _One, second: _Two, /) -> tuple[_One, _Two]: ...
    @overload
    def prepare(self, first: _One, second: _Two, third: _Three, /) -> tuple[_One, _Two, _Three]: ...
    @overload
    def prepare(self, *objects: Any) -> tuple[Any, ...]: ...
    def prepare(self, *objects: Any) -> Any:
        """Bring models to the run's device, track everything, and return it in the same order (one object: itself).

        The batches of `run.batches` come on that device from now on. Names in the snapshot are ``model``,
        ``optimizer``, ``scheduler``, with ``_2`` and so on where there are several. Loaders are passed through.

        Raises:
            TypeError, StateMismatch: as `track`.
        """
        named: dict[str, object] = {}
        ready: list[object] = []
        for value in objects:
            if isinstance(value, (Loader, torch.utils.data.DataLoader)):
                ready.append(value)
                continue
            ready.append(to_device(value, self.device) if isinstance(value, torch.nn.Module) else value)
            known = next((name for name, old in {**self._tracked, **named}.items() if old is value), None)
            named[known or self._free_name(value)] = ready[-1]
        self.moves_batches = self.device.type != "cpu"
        self.track(**named)
        return ready[0] if len(ready) == 1 else tuple(ready)

    def loader(self, dataset: Any, **settings: Any) -> Loader:
        """Return a loader over a data set whose order can be resumed at any batch, for any number of workers.

        Args:
            dataset: anything with ``__len__`` and ``__getitem__``.
            **settings: as those of `torch.utils.data.DataLoader`: ``batch_size=1, shuffle=True, num_workers=0,
                drop_last=False, collate_fn=None, pin_memory=None, persistent_workers=None``, and more; see
                `rekindle.run.loader.make_loader`.

        Raises:
            RunError: the data set is empty, or has no samples by number.
            TypeError, ValueError: an argument that cannot be meant.
        """
        return make_loader(dataset, seed=self.seed, **settings)

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
        if self._updater.scaler is not None:
            self._updater.end_step()
        self._was_updated.up = False
        self._steps_done += 1
        self._clean = True
        if self.evidence is not None:
            self.evidence.step(self._steps_done, self.epoch, self.tracked_now(), sys._getframe(1))  # noqa: SLF001 - the caller's frame is what is recorded
        if self._progress_wanted:
            self._show_progress()
        if not self.places.any_loop:
            self._step_without_batches()

    def save(self) -> None:
        """Save at the next boundary; outside the loop, at once."""
        if self._in_epochs or self._inside_a_loop():
            self._ask()
        elif not self._begun and self._saved is not None:
            self._write(self._mark_now(self._resume_place))
        else:
            self._write(self._mark_now(), finished=self._finished)

    def stop(self) -> None:
        """End the run after this epoch, as if it were the last: for early stopping."""
        self._stop_asked = True

    def log(self, **values: Any) -> None:
        """Write one line to ``metrics.jsonl``, and to TensorBoard: step, epoch, learning rates and these values.

        What is logged again on the way back to an interrupted place is not written twice.

        Args:
            **values: numbers, texts, bools, None, or tensors of one element. NaN and infinities become texts.

        Raises:
            TypeError: something else.
            OSError: the line could not be written.
        """
        plain = {name: plain_value(name, value) for name, value in values.items()}
        if self._saved is not None and (not self._begun or self.places.replaying):
            return
        for name, value in plain.items():
            if value in _NOT_FINITE and not isinstance(values[name], str) and name not in self._odd_metrics:
                self._odd_metrics.add(name)
                self.note(f"run.log: {name} is {value} after step {self._steps_done:,}; said once")
        line = {**{name: rate for name, rate in self._rates().items() if name not in plain}, **plain}
        self._metrics.write(self._steps_done, self.epoch, line)
        self._events.write(self._steps_done, line)
        rule = self._best_rule
        if rule is not None and isinstance(plain.get(rule.metric), (int, float)):
            self._offer_best(rule, float(plain[rule.metric]))

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
            with torch.no_grad():
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

    def backward(self, loss: torch.Tensor, **settings: Any) -> None:
        """Add the loss's gradients, scaled for the precision and divided by the accumulation window's length.

        Args:
            loss: one number.
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
        if self.accumulate > 1 and loop is not None:
            length = window_at(loop.delivered - 1, self.accumulate, loop.length).length
        self._updater.backward(loss, length, **settings)

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
        self._updater.update(
            chosen,
            self._schedulers,
            clip_norm=clip_norm,
            clip_value=clip_value,
            all_optimizers=max(1, len(self._optimizers)),
        )
        return True

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
    def best(self) -> Best | None:
        """The best snapshot so far by ``keep_best``, None while there is none."""
        best = self._best
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
        if once and text in self._said:
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
        self._close(save=kind is None)
        dead = dead_worker(error, self._way_back())  # torch raises it from a signal handler, wherever the loop is
        if dead is not None:
            raise dead from error

    def _close(self, *, save: bool) -> None:
        if self._closed:
            return
        try:
            unsaved = self._begun and self._steps_done != self._last_saved_step
            if save and unsaved and (self._clean or not self.places.any_loop):
                if self._left_early:
                    # The script left the epochs with `break`: for it, that was the end of the run.
                    self._finished, self._finished_total = True, self._epochs_total
                self._write(self._mark_now(), finished=self._finished)
        finally:
            self._shut()

    def _shut(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.signals.close()
        if self._progress is not None:
            self._progress.close()
        try:
            self._metrics.close()
            self._events.close()
        finally:
            self._lock.release()

    # ---- beginning

    def _open(
        self, seed: int | None, resume: str | os.PathLike[str], *, tensorboard: bool | None, deterministic: bool
    ) -> None:
        """Take the folder's lock and what the newest snapshot says; a run that cannot start gives the lock back."""
        check_run_folder(self.folder)
        refuse_without(self.folder, resume)
        self._lock: RunLock = hold(self.folder)
        try:
            clean_leftovers(self._lock)
            self._metrics = MetricsFile(os.path.join(self.folder, METRICS_NAME))
            self._events = EventFiles(os.path.join(self.folder, TENSORBOARD_NAME), wanted=tensorboard)
            self._saved = find_start(self.folder, resume, self.note)
            self._take_up(seed, deterministic=deterministic)
        except BaseException:
            self._lock.release()
            raise

    def _take_up(self, seed: int | None, *, deterministic: bool) -> None:
        """Take over what the snapshot says, or begin."""
        if deterministic:
            _use_deterministic_algorithms()
        facts = read_run_file(self.folder)
        saved = self._saved
        extra: Mapping[str, Any] = {} if saved is None else saved.extra
        if saved is not None and extra.get("version") != _EXTRA_VERSION:
            raise RunError(f"{saved.path}: written by another version of rekindle", do="pip install --upgrade rekindle")
        self.seed = choose_seed(
            self.folder, seed, extra.get("seed", (facts or {}).get("seed")), begun=saved is not None
        )
        now = environment.describe()
        forked = saved is not None and not is_snapshot_of(self.folder, saved.path)
        if saved is not None:
            self._steps_done = saved.step
            self.state = extra.get("state", {})
            best = extra.get("best")
            self._best = None if best is None or forked else Best(best["value"], best["step"])
            self._finished, self._finished_total = extra.get("finished", False), extra.get("epochs", 0)
            self._resume_place = Place.decode(place_in(saved))
            if not forked:
                self._last_saved_step, self._last_saved_place = saved.step, self._resume_place
            self._say_where(saved)
            finite_step = saved.manifest.facts.get("finite_step", saved.step)
            self._finite_step = finite_step if isinstance(finite_step, int) and not forked else None
            if finite_step != saved.step:
                source = os.path.dirname(os.path.dirname(saved.path))
                self._say_not_finite(
                    f"{saved.path}: a parameter in it", finite_step if isinstance(finite_step, int) else None, source
                )
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
        if facts is None or saved is None:
            write_run_file(
                self.folder,
                {
                    "seed": self.seed,
                    "settings": self._settings,
                    "command": list(getattr(sys, "orig_argv", sys.argv)),
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
            forgotten = [name for name in self._saved.names if name not in self._tracked]
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
        self._begun = True
        self._begun_at = time.monotonic()
        self.signals.install()

    def _watch(self, value: object) -> None:
        """Remember optimizers and schedulers, and learn when an optimizer is stepped."""
        if isinstance(value, torch.optim.Optimizer):
            self._optimizers.append(value)
            flag = self._was_updated
            value.register_step_post_hook(lambda *_: flag.raise_())
        elif isinstance(value, LRScheduler):
            self._schedulers.append(value)
            if isinstance(value, Schedule) and value.changed_from is not None:
                self.note(f"the schedule was {value.changed_from} and is {value.shape} from now on")

    def _free_name(self, value: object) -> str:
        if isinstance(value, torch.nn.Module):
            base = "model"
        elif isinstance(value, torch.optim.Optimizer):
            base = "optimizer"
        elif isinstance(value, LRScheduler):
            base = "scheduler"
        else:
            base = type(value).__name__.lower()
        number = self._prepared.get(base, 0) + 1
        self._prepared[base] = number
        return base if number == 1 else f"{base}_{number}"

    # ---- epochs, loops, boundaries

    def _walk_epochs(self, total: int) -> Iterator[int]:
        self._in_epochs, self._left_early = True, True
        self._epochs_total = total
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
                if self._turn(epoch, last=self._stop_asked or epoch + 1 == total):
                    break
            self._left_early = False
        finally:
            self._in_epochs = False
            self._mark = None
            # After the loop there is no boundary any more: a signal means again what it means to any script.
            self.signals.close()
        if self._progress is not None:
            self._progress.close()

    def _turn(self, epoch: int, *, last: bool) -> bool:
        """Do what is due at the end of an epoch's body; return `last`."""
        self.epoch = epoch + 1
        if self._in_window(at_turn=True) and not last:
            return False  # gradients are on their way into the next epoch: its first boundary will do
        self.places.begin_epoch(epoch + 1)
        if last:
            self._finished, self._finished_total = True, self._epochs_total
        every = self._every.epochs
        if last or self._is_due() or self.signals.requested is not None or (every and (epoch + 1) % every == 0):
            self._write(self._mark_now(Place(epoch + 1)), finished=last)
        if self.signals.requested is not None:
            self._leave(None)
        return last

    def _arrive(self, loop: Loop) -> None:
        """Do what is due where the next batch of a loop is asked for."""
        self.places.arrive(loop)
        if not self._clean:
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
        return any(p.grad is not None for o in self._optimizers for group in o.param_groups for p in group["params"])

    # ---- saving

    def _is_due(self) -> bool:
        if self._steps_done >= self._next_step:  # which `_ask` moves here
            return True
        return self._next_time is not None and time.monotonic() >= self._next_time

    def _ask(self) -> None:
        """Have the next boundary save."""
        self._next_step = -1

    def _plan_next_save(self) -> None:
        steps, seconds = self._every.steps, self._every.seconds
        self._next_step = math.inf if steps is None else (self._steps_done // steps + 1) * steps
        self._next_time = None if seconds is None else time.monotonic() + seconds

    def _mark_now(self, place: Place | None = None) -> _Mark:
        if place is None:
            loop = self.places.current
            place = self.places.place(loop) if loop is not None else Place(self.epoch)
        return _Mark(place, self._steps_done, self._metrics.size, self._events.sizes())

    def _mark_with_print(self, place: Place) -> _Mark | None:
        """Return a mark that can be told from a changed state.

        None where telling has cost enough: half a second, and 1 % of the time since the loop was entered.
        """
        began = time.monotonic()
        if self._prints_cost_s > 0.5 + 0.01 * (began - self._begun_at):
            return None
        seen = fingerprint(self.tracked_now())
        self._prints_cost_s += time.monotonic() - began
        return None if seen is None else replace(self._mark_now(place), print=seen)

    def _write(self, mark: _Mark, *, finished: bool = False) -> None:
        """Save the state as it is, which must be that of `mark`.

        Raises:
            RunError: the loss is not finite, or there is no room.
            OSError: the disk is full or failing. The earlier snapshots are untouched.
        """
        self._check_loss()
        best = self._best
        if self._best_pending is not None and mark.metrics_size == self._metrics.size:
            best = Best(self._best_pending, mark.steps_done)
        extra = {
            "version": _EXTRA_VERSION,
            "seed": self.seed,
            "place": mark.place.encode(),
            "state": self.state,
            "best": None if best is None else {"value": best.value, "step": best.step},
            "log": {"metrics": mark.metrics_size, "events": dict(mark.event_sizes)},
            "environment": self._environment,
            "settings": {name: self._settings[name] for name in _DECIDE_BITS},
            "finished": finished,
            "epochs": self._finished_total if finished else self._epochs_total,
            "world_size": self.world_size,
        }
        captured = self._captured = capture(self._tracked, extra, reuse=self._captured)
        for note in captured.notes:
            self.note(note, once=True)
        finite_step = mark.steps_done if captured.not_finite is None else self._finite_step
        self._metrics.sync()
        self._events.sync()
        committed = commit(
            self._lock,
            mark.steps_done,
            captured.files,
            {"epoch": mark.place.epoch, "finished": finished, "finite_step": finite_step},
            need_bytes=captured.size_bytes,
            replace=True,
        )
        self._best, self._finite_step = best, finite_step
        if captured.not_finite is not None:
            self._say_not_finite(f"{captured.not_finite} after step {mark.steps_done:,}", finite_step, self.folder)
        self._best_pending = None
        self._last_saved_step, self._last_saved_place = mark.steps_done, mark.place
        self._plan_next_save()
        if self.evidence is not None:
            self.evidence.saved(committed.step)
        if self._on_saved is not None:
            self._on_saved(committed)
        pruned = prune(
            self._lock,
            keep_last=self._keep_last,
            keep_every=self._keep_every,
            keep_steps={step for step in (None if best is None else best.step, finite_step) if step is not None},
        )
        if pruned.warning is not None:
            self.note(pruned.warning, once=True)

    def _offer_best(self, rule: BestRule, value: float) -> None:
        known = self._best_pending if self._best_pending is not None else self._best.value if self._best else None
        if rule.improves(value, known):
            self._best_pending = value
            self._ask()

    def _check_loss(self) -> None:
        loss, self._last_loss = self._last_loss, None
        if loss is not None and not math.isfinite(loss.item()):
            raise self._not_finite(loss)

    def _way_back(self) -> str:
        """Return where the same command goes on, in words for the end of a message."""
        if self._last_saved_step < 0:
            return "the same command begins again, as no snapshot was taken yet"
        return f"the same command goes on from the snapshot of step {self._last_saved_step:,}"

    def _say_not_finite(self, what: str, finite_step: int | None, folder: str) -> None:
        """Say once that training goes on with NaN or infinity, and from where it could go on without."""
        if self._said_not_finite:
            return
        self._said_not_finite = True
        if finite_step is None:
            do = "stop, lower the learning rate, and begin anew: no snapshot of this run is free of them"
        else:
            good = snapshot_path(folder, finite_step)
            do = (
                f"stop, and begin a new run in another folder from step {finite_step:,}, the newest snapshot without "
                f"them, which stays: Run({self.folder + '-2'!r}, resume={good!r})"
            )
        why = "the loss was most likely NaN, and the optimizer stepped on; run.backward(loss) stops there"
        self.note(str(RunError(f"{what} holds NaN or infinity", why=why, do=do)))

    def _not_finite(self, loss: torch.Tensor) -> RunError:
        loop = self.places.current
        where = f"epoch {self.epoch}" + (f", batch {loop.delivered - 1}" if loop is not None else "")
        kept = (
            f"the snapshot of step {self._last_saved_step:,} is untouched"
            if self._last_saved_step >= 0
            else "no snapshot was taken yet"
        )
        return RunError(
            f"the loss is {loss.item()} after step {self._steps_done:,} ({where})",
            why="the learning rate is too high, the data hold NaN or infinity, or a logarithm or a division met zero",
            do=f"lower the learning rate, or clip: run.update(clip_norm=1.0); {kept}",
        )

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

    def _leave_where_it_waits(self, loop: Loop) -> None:
        """Leave while waiting for a batch, if the state is whole; go on where it is not."""
        if self._clean:
            self._leave(self._mark_now(self.places.place(loop)))
        elif self._may_leave():
            self._leave(self._mark)

    def _leave(self, mark: _Mark | None) -> NoReturn:
        """Save what is not saved yet, say so, and end the process with the code that the signal asks for."""
        self.signals.interruptible = False
        code = self.signals.exit_code
        try:
            if mark is not None and (mark.steps_done, mark.place) != (self._last_saved_step, self._last_saved_place):
                self._write(mark)
            self.note(f"{self.folder}: saved after step {self._steps_done:,}; the same command goes on from there")
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


class _Flag:
    """Whether a tracked optimizer was stepped since the last boundary; hooks hold this, so that they hold no run."""

    def __init__(self) -> None:
        self.up = False

    def raise_(self) -> None:
        self.up = True


def _recorder() -> Recorder | None:
    if not os.environ.get(EVIDENCE_VARIABLE):
        return None
    from rekindle.run.evidence import recorder_from_environment  # noqa: PLC0415 - only under `rekindle prove`

    return recorder_from_environment()


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise ConfigError(f"{name}={count!r} is not a whole number of at least 1")


def _use_deterministic_algorithms() -> None:
    # Read when cuBLAS starts; without it torch refuses deterministic products of matrices on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def _close_display(run: weakref.ref[Run]) -> None:
    """Leave the terminal as it was when the process ends with the display open."""
    alive = run()
    if alive is not None and alive._progress is not None:  # noqa: SLF001 - the run's own
        alive._progress.close()  # noqa: SLF001 - as above
