"""The saving half of a run: when a snapshot is due, what it holds, and what stays of those before it.

`Saver` is told of boundaries by `Run` and knows nothing of loops: a `Mark` says where the run was. A save is a copy of
the state in host memory, made at the boundary, and then the writing of that copy, in a thread of its own. One is under
way at a time, since there is one set of buffers: memory holds the state twice, never three times. What became of it is
settled by the main thread, at the first boundary after its end: errors are raised there, and `on_saved` is called.

Law: what a snapshot says of itself (best value, newest finite step, lengths of the logs) was true at its mark. Nothing
counts as saved before it is promised.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from rekindle.errors import NotWritten, RunError
from rekindle.run.places import Place
from rekindle.run.policy import Best, BestRule, SaveEvery
from rekindle.run.snapshot import Captured, Saved, capture, make_buffers, wanted_buffers
from rekindle.run.writer import Background
from rekindle.store.atomic import fsync_folder
from rekindle.store.commit import Committed, Earlier, commit, note_what_was_done, stamp_of
from rekindle.store.layout import METRICS_NAME, TENSORBOARD_NAME, snapshot_path
from rekindle.store.lock import RunLock
from rekindle.store.manifest import FileFacts, read_manifest
from rekindle.store.retention import Pruned, prune

__all__ = ["EXTRA_VERSION", "Mark", "SavePolicy", "Saver", "not_finite_loss"]

EXTRA_VERSION = 1
_RESERVED_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Mark:
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


@dataclass(frozen=True, slots=True)
class SavePolicy:
    """What a run was told about saving.

    Attributes:
        every: how often.
        best: which snapshot is the best; None for "nobody asks".
        keep_last: how many of the newest stay; None for all.
        keep_every: steps whose multiples stay.
        on_saved: called with each snapshot that is promised.
        background: write while the training goes on.
        when_busy: what a save does that is due while the one before is still being written.
        commit: as `rekindle.store.commit.commit`.
        ranks: (rank, processes) where a part of what is tracked is sharded; None otherwise.
        agree: given which parameter of this process's is not finite and `Captured.layout`, returns the former for all
            processes, and raises where they do not lay the snapshot out alike.
    """

    every: SaveEvery
    best: BestRule | None
    keep_last: int | None
    keep_every: int | None
    on_saved: Callable[[Committed], object] | None
    background: bool = True
    when_busy: Literal["wait", "skip"] = "wait"
    commit: Callable[..., Committed] = commit
    ranks: tuple[int, int] | None = None
    agree: Callable[[str | None, str], str | None] = lambda not_finite, _: not_finite


@dataclass(frozen=True, slots=True)
class _Known:
    """A snapshot that holds, for files that need not be written again.

    Attributes:
        path: its folder.
        files: of its manifest.
        stamps: as `stamp_of`, of each file.
        samples: as `Captured.samples`; None where the snapshot was made by an earlier life.
    """

    path: str
    files: Mapping[str, FileFacts]
    stamps: Mapping[str, tuple[int, int, int, int]]
    samples: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class _Writing:
    """All that the thread needs to write one snapshot; nothing in it changes any more."""

    lock: RunLock
    mark: Mark
    captured: Captured
    finished: bool
    best_step: int | None
    finite_step: int | None
    known: _Known | None
    keep_last: int | None
    keep_every: int | None
    commit: Callable[..., Committed]
    agree: Callable[[str | None, str], str | None]


@dataclass(frozen=True, slots=True)
class _Written:
    """What became of it."""

    committed: Committed
    not_finite: str | None
    finite_step: int | None
    known: _Known | None
    pruned: Pruned


class Saver:
    """The snapshots of one run, as they are made.

    Args:
        lock: the run's.
        policy: as it was given.
        saved: under `rekindle prove`, what notes that a step is saved.

    Attributes:
        under_way: the save that is being written, or was and is not settled yet.
        best: the best snapshot so far; that of the save under way, where it is the best.
        finite_step: the newest step whose parameters were all finite; None where none is known.
        last_step: the newest step that is saved, -1 for none.
        last_place: where that one goes on.
    """

    def __init__(self, lock: RunLock, policy: SavePolicy, saved: Callable[[int], object] | None) -> None:
        """Nothing is saved yet."""
        self._lock = lock
        self._policy = policy
        self._saved = saved
        self.under_way: Background[_Written] | None = None
        self._mark: Mark | None = None
        self._best_before: Best | None = None
        self._known: _Known | None = None
        self.best: Best | None = None
        self.finite_step: int | None = None
        self.last_step = -1
        self.last_place: Place | None = None
        self._best_pending: float | None = None
        self._said_not_finite = False
        self._captured: Captured | None = None
        self._reserving: Background[dict[tuple[str, str], torch.Tensor]] | None = None
        self._next_step: float = math.inf
        self._next_time: float | None = None

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self._lock.path

    def take_up(self, saved: Saved, place: Place) -> None:
        """Go on from a snapshot of this run, which was verified a moment ago."""
        self.last_step, self.last_place = saved.step, place
        self._known = _known(saved.path, saved.manifest.files, None)

    def follow_policy(self, policy: SavePolicy, steps_done: int) -> None:
        """Save in another way from now on; nothing is under way yet."""
        self._policy = policy
        self.plan_next(steps_done)

    def reserve(self, tracked: Mapping[str, object]) -> None:
        """Begin to get the memory for the copies, which takes many times as long as the first copy itself.

        Nothing where the state is small, and where it cannot be saved: the save will say so.
        """
        if not self._policy.background or self._captured is not None:
            return
        with contextlib.suppress(Exception):
            wanted = wanted_buffers(tracked, ranks=self._policy.ranks)
            if sum(tensor.nbytes for tensor in wanted.values()) >= _RESERVED_BYTES:
                work = Background(partial(make_buffers, wanted), "memory for snapshots")
                work.start()
                self._reserving = work

    def _reserved(self, say: Callable[[str], object]) -> dict[tuple[str, str], torch.Tensor]:
        work, self._reserving = self._reserving, None
        if work is None or not work.is_ours:
            return {}
        with contextlib.suppress(MemoryError, RuntimeError):  # capturing will ask for it again
            work.wait(say)
            return work.result()
        return {}

    # ---- when

    def is_due(self, steps_done: int) -> bool:
        """Tell whether the next boundary saves."""
        if steps_done >= self._next_step:  # which `ask` moves here
            return True
        return self._next_time is not None and time.monotonic() >= self._next_time

    def ask(self) -> None:
        """Have the next boundary save."""
        self._next_step = -1

    def plan_next(self, steps_done: int) -> None:
        """Count steps and seconds from here."""
        steps, seconds = self._policy.every.steps, self._policy.every.seconds
        self._next_step = math.inf if steps is None else (steps_done // steps + 1) * steps
        self._next_time = None if seconds is None else time.monotonic() + seconds

    def offer_best(self, values: Mapping[str, object]) -> None:
        """Look at what was logged: a better value than any before asks for a save."""
        rule = self._policy.best
        if rule is None:
            return
        value = values.get(rule.metric)
        if not isinstance(value, (int, float)):
            return
        known = self._best_pending if self._best_pending is not None else self.best.value if self.best else None
        if rule.improves(float(value), known):
            self._best_pending = float(value)
            self.ask()

    # ---- what

    def save(
        self,
        mark: Mark,
        tracked: Mapping[str, object],
        extra: Mapping[str, Any],
        say: Callable[..., object],
        *,
        metrics_size: int,
        finished: bool = False,
        at_once: bool = False,
    ) -> None:
        """Copy the state as it is, which must be that of `mark`, and have it written.

        Args:
            mark: the boundary.
            tracked: name -> object.
            extra: what the run keeps for itself, but for what stands in the mark and what this class knows.
            say: takes a line for people, and ``once=True``.
            metrics_size: bytes of metrics.jsonl by now; a mark of before the last line knows nothing of it.
            finished: whether the run's last epoch is done.
            at_once: return when it is promised; otherwise as the policy says.

        Raises:
            StateMismatch: something cannot be saved.
            RunError: there is no room; of this save, or of the one before.
            OSError: the disk is full or failing; likewise. The earlier snapshots are untouched.
        """
        behind = self._policy.background and not at_once
        if behind and self._policy.when_busy == "skip" and self.is_busy and self._next_step >= 0:
            self.plan_next(mark.steps_done)
            say("a save that was due is left out, since the one before is still being written; said once", once=True)
            return
        self.settle(say)
        self._best_before = self.best
        if self._best_pending is not None and mark.metrics_size == metrics_size:
            self.best = Best(self._best_pending, mark.steps_done)
        best = self.best
        whole = {
            "version": EXTRA_VERSION,
            **extra,
            "place": mark.place.encode(),
            "best": None if best is None else {"value": best.value, "step": best.step},
            "log": {"metrics": mark.metrics_size, "events": dict(mark.event_sizes)},
            "finished": finished,
        }
        try:
            captured = capture(
                tracked, whole, reuse=self._captured, spare=self._reserved(say), ranks=self._policy.ranks
            )
            self._captured = captured
        except BaseException:
            self.best = self._best_before
            raise
        for note in captured.notes:
            say(note, once=True)
        self._best_pending = None
        self._mark = mark
        self.plan_next(mark.steps_done)
        writing = _Writing(
            self._lock,
            mark,
            captured,
            finished,
            None if best is None else best.step,
            self.finite_step,
            self._known,
            self._policy.keep_last,
            self._policy.keep_every,
            self._policy.commit,
            self._policy.agree,
        )
        if behind:
            work = Background(partial(_write, writing), f"the snapshot of step {mark.steps_done:,}")
            try:
                work.start()
            finally:
                if work.begun:
                    self.under_way = work
                else:
                    self.best = self._best_before
            return
        try:
            written = _write(writing)
        except BaseException:
            self.best = self._best_before
            raise
        self._settle(written, say)

    def follow(self, mark: Mark) -> None:
        """Note that rank 0 saves at this boundary: nothing is written by the other processes."""
        if self._best_pending is not None:
            self.best = Best(self._best_pending, mark.steps_done)
        self._best_pending = None
        self.last_step, self.last_place = mark.steps_done, mark.place
        self.plan_next(mark.steps_done)

    @property
    def is_busy(self) -> bool:
        """Whether a save is being written."""
        return self.under_way is not None and not self.under_way.done

    def settle(self, say: Callable[..., object]) -> None:
        """Wait for the save that is under way, and do what its end asks for; nothing where none is.

        Raises:
            NotWritten: it has not come to its end after ten minutes.
            RunError, OSError: it failed, as `save` would have; once.
        """
        work = self.under_way
        if work is None:
            return
        if not work.is_ours:  # this process was forked in the middle of it
            self.under_way = None
            return
        try:
            work.wait(say)
        except NotWritten:
            self.under_way = None
            self.best = self._best_before
            self._captured = None  # its buffers are not ours to fill again
            raise
        self.under_way = None
        try:
            written = work.result()
        except BaseException:
            self.best = self._best_before
            raise
        self._settle(written, say)

    def _settle(self, written: _Written, say: Callable[..., object]) -> None:
        mark = self._mark
        if mark is None:
            raise AssertionError("a save without a mark")
        self.finite_step = written.finite_step
        self._known = written.known
        self.last_step, self.last_place = mark.steps_done, mark.place
        if written.not_finite is not None:
            what = f"{written.not_finite} after step {mark.steps_done:,}"
            self.say_not_finite(what, written.finite_step, self.folder, say)
        if written.pruned.warning is not None:
            say(written.pruned.warning, once=True)
        if self._saved is not None:
            self._saved(written.committed.step)
        if self._policy.on_saved is not None:
            self._policy.on_saved(written.committed)

    def close(self, say: Callable[[str], object]) -> None:
        """Let the save that is under way come to its end, and give the buffers free."""
        work, self.under_way = self.under_way, None
        if work is not None and work.is_ours:
            work.wait(say)
            work.say_failure(say)
        self._reserved(say)
        self._captured = self._known = None

    def is_saved(self, mark: Mark) -> bool:
        """Tell whether the newest snapshot is the one of this boundary."""
        return (mark.steps_done, mark.place) == (self.last_step, self.last_place)

    # ---- words

    def what_is_kept(self) -> str:
        """Return what an accident leaves, in words."""
        if self.last_step >= 0:
            return f"the snapshot of step {self.last_step:,} is untouched"
        return "no snapshot was taken yet"

    def way_back(self) -> str:
        """Return where the same command goes on, in words for the end of a message."""
        if self.last_step < 0:
            return "the same command begins again, as no snapshot was taken yet"
        return f"the same command goes on from the snapshot of step {self.last_step:,}"

    def say_not_finite(self, what: str, finite_step: int | None, folder: str, say: Callable[..., object]) -> None:
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
        say(str(RunError(f"{what} holds NaN or infinity", why=why, do=do)))


def not_finite_loss(value: float, steps_done: int, where: str, kept: str) -> RunError:
    """Return the error for a loss that is NaN or infinite, found at `where`; `kept` says what is not lost."""
    return RunError(
        f"the loss is {value} after step {steps_done:,} ({where})",
        why="the learning rate is too high, the data hold NaN or infinity, or a logarithm or a division met zero",
        do=f"lower the learning rate, or clip: run.update(clip_norm=1.0); {kept}",
    )


def _write(writing: _Writing) -> _Written:
    """Write one snapshot and prune; called in a thread of its own, or in the main thread."""
    mark, captured = writing.mark, writing.captured
    captured.wait()
    not_finite = writing.agree(captured.not_finite(), captured.layout)
    finite_step = mark.steps_done if not_finite is None else writing.finite_step
    samples = captured.samples()
    try:
        _sync_logs(writing.lock.path, mark)
    except OSError as error:
        note_what_was_done(error, writing.lock, mark.steps_done)
        raise
    committed = writing.commit(
        writing.lock,
        mark.steps_done,
        captured.files,
        {"epoch": mark.place.epoch, "finished": writing.finished, "finite_step": finite_step},
        need_bytes=captured.size_bytes,
        replace=True,
        earlier=_earlier(writing.known, samples, captured.frozen),
    )
    known = _known(committed.path, read_manifest(committed.path).files, samples if committed.written else None)
    wanted = {step for step in (writing.best_step, finite_step) if step is not None}
    pruned = prune(writing.lock, keep_last=writing.keep_last, keep_every=writing.keep_every, keep_steps=wanted)
    return _Written(committed, not_finite, finite_step, known, pruned)


def _earlier(known: _Known | None, samples: Mapping[str, int], frozen: Collection[str]) -> Earlier | None:
    """Return where files may be linked to, and which of them it is worth the trouble to compare."""
    if known is None:
        return None
    if known.samples is None:  # nothing is known of their tensors
        return Earlier(known.path, known.files, known.stamps, frozen)
    likely = {name for name, sample in samples.items() if known.samples.get(name) == sample}
    return Earlier(known.path, known.files, known.stamps, likely)


def _known(path: str, files: Mapping[str, FileFacts], samples: Mapping[str, int] | None) -> _Known | None:
    try:
        stamps = {name: stamp_of(os.path.join(path, name)) for name in files}
    except OSError:
        return None
    return _Known(path, files, stamps, samples)


def _sync_logs(folder: str, mark: Mark) -> None:
    """Bring to the disk what a snapshot says the log files hold.

    Raises:
        OSError: it may not be there.
    """
    if mark.metrics_size:
        _sync(os.path.join(folder, METRICS_NAME))
    events = os.path.join(folder, TENSORBOARD_NAME)
    for name in mark.event_sizes:
        _sync(os.path.join(events, name))
    if mark.event_sizes:
        fsync_folder(events)


def _sync(path: str) -> None:
    # By a descriptor of its own: the main thread goes on writing through another one.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
