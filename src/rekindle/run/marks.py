"""A boundary as a snapshot holds it, and the saving of it.

A `Mark` says where the run was. It can be taken and used at once, or kept, with a fingerprint of the state, until a
signal asks whether the state is still the same.

Law: what is saved is the state of its mark; nothing is saved while a model is lent the weights of its average.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from rekindle.errors import NotWritten, RunError
from rekindle.run.changes import fingerprint
from rekindle.run.core import Core
from rekindle.run.journal import saying_what_went
from rekindle.run.places import Place
from rekindle.run.saving import Mark, not_finite_loss
from rekindle.run.settings import DECIDE_BITS
from rekindle.run.together import share_buffers

__all__ = ["is_unchanged", "mark_now", "mark_with_print", "not_finite", "save_now", "settle_last", "way_back"]

# Those of the first epochs, whose time has just begun; a run of very short ones would pay for more at each.
_FREE_PRINTS = 8


def mark_now(core: Core, place: Place | None = None) -> Mark:
    """Return the mark of this moment; at the place given, else where the next batch of the loop comes from."""
    if place is None:
        loop = core.places.current
        place = core.places.place(loop) if loop is not None else Place(core.epoch)
    with saying_what_went(core):
        return Mark(place, core.steps_done, core.logs.metrics.size, core.logs.events.sizes())


def mark_with_print(core: Core, place: Place) -> Mark | None:
    """Return a mark that can be told from a changed state.

    None where telling has cost enough: 1 % of the time since the loop was entered, and at first half a second.
    """
    began = time.monotonic()
    if core.prints_cost_s > 0.01 * (began - core.begun_at) + (0.5 if core.prints < _FREE_PRINTS else 0.0):
        return None
    seen = fingerprint(core.tracked_now())
    core.prints += 1
    core.prints_cost_s += time.monotonic() - began
    return None if seen is None else replace(mark_now(core, place), print=seen)


def is_unchanged(core: Core) -> bool:
    """Whether the state is still that of the last mark; asked by the signal handler where the run waits."""
    mark = core.mark
    return mark is not None and fingerprint(core.tracked_now()) == mark.print


def save_now(core: Core, mark: Mark, *, finished: bool = False, at_once: bool = False) -> None:
    """Save the state as it is, which must be that of `mark`; with `at_once`, return when it is promised.

    Raises:
        RunError: the loss is not finite, or there is no room.
        OSError: the disk is full or failing. The earlier snapshots are untouched.
    """
    loss, core.last_loss = core.last_loss, None
    if loss is not None and not math.isfinite(loss.item()):
        raise not_finite(core, loss)
    if core.is_lent():
        raise RunError(
            "nothing can be saved inside average.swapped()",
            why="the model holds the averaged weights just now, not its own",
            do="call run.save() and run.step() outside of the with block",
        )
    if core.company is not None and core.shares_saving:
        share_buffers(core)  # any of the processes may write them
    elif core.rank:
        core.saver.follow(mark)
        return
    extra = {
        "seed": core.seed,
        "state": core.state,
        **({"skipped_steps": core.updater.skipped} if core.updater.skipped else {}),
        "environment": core.environment,
        "settings": {name: core.settings.words[name] for name in DECIDE_BITS},
        "epochs": core.finished_total if finished else core.epochs_total,
        "world_size": core.world_size,
    }
    core.saver.save(
        mark,
        core.tracked.objects,
        extra,
        core.note,
        metrics_size=core.logs.metrics.size,
        finished=finished,
        at_once=at_once,
    )


def settle_last(core: Core) -> Exception | None:
    """Wait for the save that is under way; say and return why it failed, None where it did not.

    For where an exception is on its way, or another save that may do better.
    """
    try:
        core.saver.settle(core.note)
    except NotWritten:
        raise
    except Exception as error:  # noqa: BLE001 - `on_saved` is the user's code
        core.note(str(error))
        return error
    return None


def way_back(core: Core) -> str:
    """Return where the same command goes on, in words, once the save that is under way has come to its end."""
    settle_last(core)
    return core.saver.way_back()


def not_finite(core: Core, loss: torch.Tensor) -> RunError:
    """Return the error for a loss that is not finite, once the save that is under way has come to its end."""
    loop = core.places.current
    where = f"epoch {core.epoch}" + (f", batch {loop.delivered - 1}" if loop is not None else "")
    settle_last(core)
    return not_finite_loss(loss.item(), core.steps_done, where, core.saver.what_is_kept())
