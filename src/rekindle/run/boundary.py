"""Epochs, loops and steps: where a run's boundaries are, and what is due at each of them.

When a save happens. `run.step()` counts an update and marks the state as whole; whatever is due is written when the
loop asks for its next batch (or comes to its end), so that what the body does after `run.step()`, such as logging,
belongs to the step as well. A save that falls on the last batch of an epoch waits for the end of the epoch's body.
Without `run.batches`, `run.step()` itself is the moment; inside `run.epochs` but without `run.batches`, the end of the
epoch is. The state is copied at that moment and written while the training goes on (`saving.py`); what became of it is
heard at a later `run.step()`, and leaving waits for it.

Law: nothing is ever saved between two boundaries, so every snapshot is a state that the undisturbed run went through.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from rekindle.errors import RunError
from rekindle.keys import near_names
from rekindle.parallel.company import Company
from rekindle.run.core import Core
from rekindle.run.journal import cut_back
from rekindle.run.leaving import ask_to_leave_in_time, leave
from rekindle.run.loader import Share
from rekindle.run.marks import mark_now, mark_with_print, save_now
from rekindle.run.opening import remember_command
from rekindle.run.places import Loop, Place
from rekindle.run.randomness import key_of, seed_globals
from rekindle.run.together import share_buffers
from rekindle.run.tracking import begin_with_half_weights, refuse_forgotten

__all__ = ["arrive", "begin", "begin_batch", "finish_loop", "is_due", "step", "walk_epochs"]


def begin(core: Core) -> None:
    """Do once, when the loop is entered: everything is restored by now.

    Raises:
        RunError: the run is closed.
        StateMismatch: the snapshot holds something that was not tracked.
    """
    if core.begun:
        return
    if core.closed:
        raise RunError(f"{core.folder}: the run is closed", do="open it again: rekindle.Run(...)")
    if core.saved is not None:
        refuse_forgotten(core, core.saved)
        cut_back(core)
    begin_with_half_weights(core)
    remember_command(core)
    core.begun = True
    core.begun_at = time.monotonic()
    core.signals.install()


# ---- epochs


def walk_epochs(core: Core, total: int) -> Iterator[int]:
    """Yield the epochs that are left, with a boundary after each."""
    if core.left_early:
        core.note(
            f"epoch {core.epoch} was left before its end, and begins anew with what it has learned since; to go on "
            "from the last snapshot instead: run.close(), and make the Run and what it tracks again"
        )
    core.in_epochs, core.left_early = True, True
    core.epochs_total = total
    if core.company is not None:
        core.company.ties.unfinished = True
    try:
        while core.epoch < total:
            epoch = core.epoch
            core.places.begin_epoch(epoch)
            core.behind = None
            steps_before = core.steps_done
            place = core.resume_place if epoch == core.resume_place.epoch else Place(epoch)
            core.clean = False
            core.mark = mark_with_print(core, place)
            seed_globals(key_of(core.seed, "epoch", epoch))
            yield epoch
            if core.steps_done == steps_before and core.places.any_loop and not core.resume_place.loops:
                core.note(f"epoch {epoch} made no step: call run.step() after each optimizer update", once=True)
            if _turn(core, epoch, last=_is_stopping(core) or epoch + 1 == total):
                break
        core.left_early = False
        if core.company is not None:
            core.company.ties.unfinished = False
    finally:
        core.in_epochs = False
        core.mark = None
        # After the loop there is no boundary any more: a signal means again what it means to any script.
        core.signals.close()
    core.voice.close()


def _is_stopping(core: Core) -> bool:
    """Whether this epoch is to be the last: the loop said so, or patience is over."""
    for known in core.tracked.patience:
        if known.is_over:
            core.note(f"{core.folder}: stops after epoch {core.epoch}: {known}", once=True)
            core.stop_asked = True
    return core.stop_asked


def _say_unheard(core: Core, *, last: bool) -> None:
    """Say once of each metric that is waited for and never logged: where it looks misspelt, or at the end."""
    waiting = {known.rule.metric: "run.stop_when" for known in core.tracked.patience if known.best is None}
    if core.policy.best is not None and core.saver.best is None:
        waiting[core.policy.best.metric] = "keep_best"
    for metric, who in waiting.items():
        near = [] if metric in core.logs.heard else near_names(metric, core.logs.heard)
        if metric not in core.logs.heard and (near or last):
            nearest = f"; nearest: {', '.join(near)}" if near else ""
            core.note(f"{who}: nothing was logged as {metric!r}{nearest}", once=True)


def _turn(core: Core, epoch: int, *, last: bool) -> bool:
    """Do what is due at the end of an epoch's body; return `last`."""
    if core.pitfalls is not None:
        core.pitfalls.end_epoch(core)
    _say_unheard(core, last=last)
    core.epoch = epoch + 1
    if not last and not core.clean and core.holds_gradients():
        return False  # gradients are on their way into the next epoch: its first boundary will do
    shapes = core.places.shapes()
    core.places.begin_epoch(epoch + 1)
    if last:
        core.finished, core.finished_total = True, core.epochs_total
    every = core.policy.every.epochs
    if last or is_due(core) or core.signals.requested is not None or (every and (epoch + 1) % every == 0):
        save_now(core, mark_now(core, Place(epoch + 1, shapes=shapes)), finished=last, at_once=last)
    if core.signals.requested is not None:
        leave(core, None)
    return last


# ---- loops over batches


def arrive(core: Core, loop: Loop) -> None:
    """Do what is due where the next batch of a loop is asked for."""
    core.places.arrive(loop)
    if not core.clean or core.is_lent():
        return
    due = is_due(core)
    core.signals.patient = finishing = core.is_finishing(loop)
    if core.signals.requested is not None and not core.signals.hold():
        leave(core, mark_now(core, core.places.place(loop)))
    # Near the end of an epoch's body the snapshot at its end says more.
    if due and not finishing:
        save_now(core, mark_now(core, core.places.place(loop)))


def finish_loop(core: Core, loop: Loop) -> None:
    """Note the end of a loop: a place to leave from as long as nothing changes."""
    loop.finished = True
    loop.length = loop.delivered
    core.behind = loop if core.in_epochs else None
    if core.clean:
        share_buffers(core)
    if core.pitfalls is not None:
        core.pitfalls.end_loop(core, loop)
    seed_globals(key_of(core.seed, "after", core.epoch, *loop.path))
    if core.clean and loop.around is None:
        core.mark = mark_with_print(core, core.places.place(loop))


def begin_batch(core: Core, share: Share | None) -> None:
    """Set up what the passes of the batch do that was just handed out, among several processes or shards."""
    loop, elastic = core.places.current, core.settings.elastic
    core.batch_weight = weight = 1.0 if share is None else share.weight
    if elastic is not None:
        part = 0 if loop is None else (loop.delivered - 1) % elastic.parts
        elastic.begin(part, weight)
    elif core.company is not None:
        core.company.begin_batch(weight, closes=not core.is_in_accumulation())


# ---- steps


def step(core: Core) -> None:
    """Count an update and mark the state as whole; called by `rekindle.Run.step` alone."""
    if not core.begun:
        begin(core)
    stepped = core.tracked.stepped
    # A tracked optimizer was stepped: no window is open, and nothing else need be asked.
    if not stepped.up and core.holds_gradients():
        return
    if core.settings.accumulate > 1 and core.is_in_accumulation():
        return
    if core.places.replaying:
        return
    if core.updater.scalers:
        core.updater.end_step()
    for average in core.tracked.averages:
        average.update()
    stepped.up = False
    core.steps_done += 1
    core.clean, core.behind = True, None
    saver = core.saver
    if not core.reserved:
        core.reserved = True
        saver.reserve(core.tracked.objects)
    if saver.under_way is not None and saver.under_way.done:
        saver.settle(core.note)
    if core.evidence is not None:
        core.evidence.step(core.steps_done, core.epoch, core.tracked_now(), _script())
    if core.pitfalls is not None and core.pitfalls.due:
        core.pitfalls.look(core, _script())
    if core.voice.shows:
        core.voice.draw(core.epoch, core.epochs_total or None, core.places.current, core.steps_done)
    limit = core.settings.limit
    if limit is not None and limit.is_near():
        ask_to_leave_in_time(core, limit)
    if not core.places.any_loop:
        _step_without_batches(core)


def _script() -> FrameType:
    """Return the frame that called `rekindle.Run.step`: its variables are what is recorded and looked at."""
    return sys._getframe(3)  # noqa: SLF001 - this function, `step`, `Run.step`, and then the script


def _step_without_batches(core: Core) -> None:
    """Reseed, and outside of epochs do what is due at once."""
    if core.saved is not None and not core.placed and not core.in_epochs:
        core.note(
            "this loop did not ask run.steps_done where to begin, so what its first step drew is not what "
            "the undisturbed run drew: for step in range(run.steps_done, ...)",
            once=True,
        )
    seed_globals(key_of(core.seed, "step", core.steps_done))
    if core.in_epochs:
        if core.signals.requested is not None:
            core.note("will leave at the end of this epoch: only run.batches can be resumed inside one", once=True)
        return
    if core.signals.requested is not None:
        leave(core, mark_now(core, Place(core.epoch)))
    if is_due(core):
        save_now(core, mark_now(core, Place(core.epoch)))


# ---- what is due


def is_due(core: Core) -> bool:
    """Tell whether the next boundary saves, after doing what all processes agreed to do there."""
    if core.company is not None:
        if core.ask_to_save is not None and core.ask_to_save.is_over():
            core.company.ties.ask("save")
        if core.steps_done >= core.company.ties.hold_at:
            _heed(core, core.company)
    return core.saver.is_due(core.steps_done)


def _heed(core: Core, company: Company) -> None:
    """Do what all processes agreed to do at this boundary."""
    for decision in company.ties.settle(core.steps_done):
        if decision.kind == "leave":
            core.signals.requested = signal.Signals(decision.detail)
        else:
            core.saver.ask()
