"""A run from inside: what it was told, what it holds open, what it tracks, and where it is.

`Run` (`loop.py`) is what a script sees. What it does stands in the files beside this one, as functions over this value:

    settings.py   what it was told              tracking.py   what is tracked, and restored
    opening.py    its folder, and the snapshot  preparing.py  models for a device, and for several processes
    together.py   the other processes           boundary.py   epochs, loops and steps, and what is due there
    voice.py      what it says                  marks.py      a boundary as a snapshot holds it, and its saving
    journal.py    what it logs                  leaving.py    signals, time limits, closing

Law: it knows nobody who holds it, so a run that a script drops is gone at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from rekindle.pitfalls._watch import Watch
from rekindle.run.averages import Average
from rekindle.run.early_stop import Patience
from rekindle.run.log import Elsewhere, EventFiles, MetricsFile
from rekindle.run.places import Loop, Place, Places
from rekindle.run.precision import Updater, window_at
from rekindle.run.saving import Mark, SavePolicy, Saver
from rekindle.run.settings import Settings
from rekindle.run.signals import SignalWatch
from rekindle.run.snapshot import Saved
from rekindle.run.voice import Voice

if TYPE_CHECKING:
    from rekindle.parallel.company import Company, FollowedLock
    from rekindle.parallel.fsdp import Repointed
    from rekindle.run.evidence import Recorder
    from rekindle.run.together import Clock
    from rekindle.store.lock import RunLock

__all__ = ["Core", "Flag", "Logs", "Tracked"]


class Flag:
    """Whether a tracked optimizer was stepped since the last boundary; hooks hold this, so that they hold no run.

    Attributes:
        up: the answer.
    """

    __slots__ = ("up",)

    def __init__(self) -> None:
        """Begin lowered."""
        self.up = False

    def raise_(self, *_: object) -> None:
        """Note that one was stepped."""
        self.up = True


@dataclass(slots=True, eq=False)
class Tracked:
    """What every snapshot holds.

    Attributes:
        objects: by name.
        optimizers, schedulers, averages: those among them.
        patience: what ends the run early.
        prepared: kind -> how many of it were given names.
        stepped: whether one of the optimizers was stepped since the last boundary.
        replaced: parameters that were replaced by their shards; None where nothing is sharded.
    """

    objects: dict[str, object] = field(default_factory=dict)
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    schedulers: list[LRScheduler] = field(default_factory=list)
    averages: list[Average] = field(default_factory=list)
    patience: list[Patience] = field(default_factory=list)
    prepared: dict[str, int] = field(default_factory=dict)
    stepped: Flag = field(default_factory=Flag)
    replaced: Repointed | None = None


@dataclass(slots=True, eq=False)
class Logs:
    """The files that are logged to.

    Attributes:
        metrics: ``metrics.jsonl``.
        events: TensorBoard's.
        vouched: their sizes when the snapshot was taken that the run goes on from.
        odd: metrics that were not finite, and were said to be.
        heard: names of all that this life has logged.
    """

    metrics: MetricsFile | Elsewhere
    events: EventFiles | Elsewhere
    vouched: tuple[int, Mapping[str, int]] = (0, {})
    odd: set[str] = field(default_factory=set)
    heard: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Core:
    """A run from inside.

    Attributes:
        settings: what it was told.
        rank, world_size: which process of how many.
        device: where to compute.
        voice: what speaks.
        updater: what makes an update of gradients.
        company: the other processes; None where there are none.
        evidence: under `rekindle prove`, what notes what happens.
        pitfalls: what looks for silent mistakes; None where nobody does.
        signals: the handlers.
        folder: where the run lives. This, and all up to `places`, is set where it is opened.
        lock: of the folder.
        saver: its snapshots.
        logs: its log files.
        saved: the snapshot that it goes on from; None where it begins.
        seed: of everything.
        environment: what the bits depend on here.
        places: how far the loops of the epoch have come.
        policy: as of `settings`, until several processes save together.
        shares_saving: whether all processes write snapshots.
        ask_to_save: the clock of a process that asks the others for a save.
        tracked: what is tracked.
        state: the script's own values.
        ranks_before: processes when the snapshot was taken.
        resume_place: where the snapshot says to go on.
        steps_done: optimizer updates in all lives.
        epoch: in progress.
        epochs_total: of the whole run; 0 while nobody knows.
        finished, finished_total: whether the last epoch is done and saved, and of how many it was the last.
        begun: whether the loop was entered; `begun_at` when.
        placed: whether a loop without epochs asked where to begin.
        in_epochs: whether an epoch is under way.
        left_early: whether the epochs were entered and not walked to their end.
        behind: the loop that came to its end last, as long as no step was made since; None outside of epochs.
        stop_asked: whether this epoch is to be the last.
        closed: whether all is given free.
        clean: whether the state is that of a boundary.
        mark: of the last boundary, while it may be left to without a new one.
        prints, prints_cost_s: how often the state's fingerprint was taken for that, and what it has cost.
        reserved: whether memory for snapshots was asked for.
        last_loss: one that nobody has looked at yet.
        batch_weight: how much the batch at hand counts here.
        moves_batches: whether batches are brought to the device.
    """

    settings: Settings
    rank: int
    world_size: int
    device: torch.device
    voice: Voice
    updater: Updater
    company: Company | None = None
    evidence: Recorder | None = None
    pitfalls: Watch | None = None
    signals: SignalWatch = field(default_factory=SignalWatch)

    folder: str = ""
    lock: RunLock | FollowedLock = field(init=False)
    saver: Saver = field(init=False)
    logs: Logs = field(init=False)
    saved: Saved | None = None
    seed: int = 0
    environment: dict[str, Any] = field(default_factory=dict)
    places: Places = field(default_factory=Places)

    policy: SavePolicy = field(init=False)
    shares_saving: bool = False
    ask_to_save: Clock | None = None

    tracked: Tracked = field(default_factory=Tracked)
    state: dict[str, Any] = field(default_factory=dict)
    ranks_before: int = 1

    resume_place: Place = field(default_factory=Place)
    steps_done: int = 0
    epoch: int = 0
    epochs_total: int = 0
    finished: bool = False
    finished_total: int = 0
    begun: bool = False
    begun_at: float = 0.0
    placed: bool = False
    in_epochs: bool = False
    left_early: bool = False
    behind: Loop | None = None
    stop_asked: bool = False
    closed: bool = False
    clean: bool = False
    mark: Mark | None = None
    prints: int = 0
    prints_cost_s: float = 0.0
    reserved: bool = False
    last_loss: torch.Tensor | None = None
    batch_weight: float = 1.0
    moves_batches: bool = False

    def __post_init__(self) -> None:
        """Begin with the policy that was asked for."""
        self.policy = self.settings.policy

    def note(self, text: str, *, once: bool = False) -> None:
        """Say something on stderr; see `Voice.note`."""
        self.voice.note(text, once=once)

    def tracked_now(self) -> dict[str, object]:
        """Return everything that a snapshot would hold, by name."""
        return {**self.tracked.objects, "run.state": self.state}

    def is_lent(self) -> bool:
        """Whether a model holds averaged weights just now."""
        return any(average.is_swapped for average in self.tracked.averages)

    def is_inside_a_loop(self) -> bool:
        """Whether the body of a loop over batches is being executed."""
        loop = self.places.current
        return loop is not None and not loop.finished and self.places.is_walked(loop)

    def is_finishing(self, loop: Loop) -> bool:
        """Whether the epoch's body is behind its work, where the next batch of a loop is asked for.

        It is where the loop has none left, or follows one that came to its end without a step since: a validation. A
        snapshot taken here would begin a life behind that loop, without what the loop computed (a loss).
        """
        if not self.in_epochs:
            return False
        return loop.is_at_its_end or (self.behind is not None and not self.behind.lies_in(loop))

    def is_in_accumulation(self) -> bool:
        """Whether more batches belong to the window of `accumulate`."""
        loop, accumulate = self.places.current, self.settings.accumulate
        if accumulate == 1 or loop is None:
            return False
        return not window_at(loop.delivered - 1, accumulate, loop.length).closes

    def holds_gradients(self) -> bool:
        """Whether gradients are there that no tracked optimizer was stepped with since the last boundary."""
        tracked = self.tracked
        return bool(tracked.optimizers) and not tracked.stepped.up and self.updater.holds_gradients(tracked.optimizers)
