"""The ways out of a run: a signal, the end of its time, closing it.

A signal is noted by its handler (`signals.py`) and obeyed at a boundary, or where the run only waits and its state is
whole: for a batch, or in an evaluation. The end of the time limit is taken for the signal that a scheduler would send.

Law: whatever way it leaves, the lock is given free last, and what could be saved whole is saved before.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn

import torch

from rekindle.run.core import Core
from rekindle.run.early_stop import TimeLimit
from rekindle.run.marks import is_unchanged, mark_now, save_now, settle_last
from rekindle.run.places import Loop
from rekindle.run.saving import Mark
from rekindle.run.signals import Leaving
from rekindle.run.workers import kill_workers

__all__ = ["ask_to_leave_in_time", "close", "evaluating", "leave", "leave_where_it_waits", "shut"]


def ask_to_leave_in_time(core: Core, limit: TimeLimit) -> None:
    """Do what a scheduler would do a little later: ask the run, all its processes, to leave."""
    if core.signals.requested is not None:
        return
    if core.signals.asked is None:
        left = max(0.0, limit.left_s())
        core.note(f"time_limit: {left:.0f} s are left for steps; saving at this boundary, then leaving")
    if core.company is None:
        core.signals.requested = signal.SIGTERM
    else:
        core.signals.ask_all(signal.SIGTERM)


def leave_where_it_waits(core: Core, loop: Loop) -> None:
    """Leave while waiting for a batch, if the state is whole; go on where it is not."""
    if core.is_lent():
        return
    if core.clean:
        leave(core, mark_now(core, core.places.place(loop)))
    elif is_unchanged(core):
        leave(core, core.mark)


@contextlib.contextmanager
def evaluating(core: Core, models: tuple[torch.nn.Module, ...]) -> Iterator[None]:
    """Have models in eval mode and no gradients recorded, and leave from in here where a signal asks; see `Run`."""
    chosen = models or tuple(value for value in core.tracked.objects.values() if isinstance(value, torch.nn.Module))
    flags = [(module, module.training) for model in chosen for module in model.modules()]
    told_to_leave = False
    try:
        for model in chosen:
            model.eval()
        core.signals.interruptible = lambda: is_unchanged(core)
        core.signals.patient = core.behind is not None
        if core.signals.requested is not None and not core.signals.hold() and is_unchanged(core):
            raise Leaving  # noqa: TRY301 - as if the signal came now
        alone = contextlib.nullcontext() if core.company is None else core.company.evaluating()
        with torch.no_grad(), alone:
            yield
    except Leaving:
        told_to_leave = True
    finally:
        core.signals.interruptible = False
        for module, training in flags:
            module.training = training
    if told_to_leave:
        leave(core, core.mark)


def leave(core: Core, mark: Mark | None) -> NoReturn:
    """Save what is not saved yet, say so, and end the process with the code that the signal asks for."""
    core.signals.interruptible = False
    code = core.signals.exit_code
    try:
        failed = settle_last(core)
        if mark is not None and not core.saver.is_saved(mark):
            save_now(core, mark, at_once=True)
        elif failed is not None:
            raise failed
        core.note(f"{core.folder}: saved after step {core.steps_done:,}; the same command goes on from there")
        if core.company is not None:  # a launcher ends all when one ends
            core.company.ties.gather("leaving", None)
    finally:
        kill_workers()
        shut(core)
    raise SystemExit(code)


def close(core: Core, *, save: bool) -> None:
    """Save what is not saved yet if the loop was left in good order, and give the run free; twice is harmless.

    Args:
        core: the run.
        save: False after an exception, when the state may be half of a step.
    """
    if core.closed:
        return
    try:
        failed = settle_last(core)
        unsaved = core.begun and core.steps_done != core.saver.last_step
        if save and unsaved and (core.clean or not core.places.any_loop):
            if core.left_early:
                # The script left the epochs with `break`: for it, that was the end of the run.
                core.finished, core.finished_total = True, core.epochs_total
            save_now(core, mark_now(core), finished=core.finished, at_once=True)
        elif save and failed is not None:
            raise failed
    finally:
        shut(core)


def shut(core: Core) -> None:
    """Give everything free, without saving."""
    if core.closed:
        return
    core.closed = True
    if core.company is not None:
        core.company.ties.unfinished = False
    core.signals.close()
    core.voice.close()
    try:
        core.logs.metrics.close()
        core.logs.events.close()
    finally:
        try:
            core.saver.close(core.note)
        finally:
            core.lock.release()
