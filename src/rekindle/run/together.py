"""A run of several processes: meeting the others, and saving together.

`rekindle.parallel.company` is what the others are to this process; here is what a run makes of them.

Law: a run of one process comes here for nothing but the answer that it is alone.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from rekindle.parallel import fsdp as sharding
from rekindle.parallel.company import Company
from rekindle.parallel.ranks import Ranks, start
from rekindle.parallel.shares import SharedCommit
from rekindle.parallel.ties import tie
from rekindle.run.core import Core
from rekindle.run.voice import say_from_any_rank

__all__ = ["Clock", "adopt_sharded", "meet", "save_in_parts", "share_buffers", "share_saving"]


class Clock:
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


def meet(core: Core, ranks: Ranks, timeout_s: float, told: Mapping[str, Any]) -> None:
    """Meet the other processes where there are any, and make sure that they are of one mind.

    Args:
        core: gets its company.
        ranks: who this is.
        timeout_s: seconds to wait for the others.
        told: what has to be the same everywhere.

    Raises:
        ConfigError: something of it differs.
        RunError: one of them cannot be reached.
    """
    if ranks.world_size == 1:
        return
    ties = tie(
        start(ranks, device_type=core.device.type, timeout_s=timeout_s, say=core.note),
        timeout_s=timeout_s,
        say=say_from_any_rank,
    )
    if ties is None:
        raise AssertionError("one process has no company")
    alive = weakref.ref(core)
    ties.position = lambda: _position(alive())
    ties.way_back = lambda: _way_back(alive())
    core.signals.together = lambda number: ties.ask("leave", number)
    company = core.company = Company(ranks, ties)
    company.agree_on(told)
    if core.settings.accumulate > 1 and core.settings.elastic is None:
        core.updater.together = company.average
    if core.settings.save_by_all:
        share_saving(core, company)


def share_saving(core: Core, company: Company) -> None:
    """Have all processes save at the same boundaries; what a clock says is asked for by rank 0 alone."""
    every, core.shares_saving = core.policy.every, True
    if every.seconds is not None and not core.rank:
        core.ask_to_save = Clock(every.seconds)
    core.policy = replace(
        core.policy,
        every=replace(every, seconds=None),
        when_busy="wait",
        commit=SharedCommit(company.ties),
        keep_last=None if core.rank else core.policy.keep_last,
    )


def save_in_parts(core: Core, company: Company) -> None:
    """Have each process save the parts that it has."""
    if not core.shares_saving:
        share_saving(core, company)
    core.policy = replace(
        core.policy,
        commit=SharedCommit(company.ties, sharding.own_files),
        ranks=(core.rank, core.world_size),
        agree=partial(sharding.agree_on_snapshot, company.ties),
        on_saved=None if core.rank else core.policy.on_saved,
    )
    core.saver.follow_policy(core.policy, core.steps_done)
    # It looks at whole tensors, in rank 0 alone; asking a sharded one for a number would wait for the others.
    core.pitfalls = None


def adopt_sharded(core: Core, model: torch.nn.Module) -> None:
    """Take in a model that the script has sharded itself."""
    company = core.company
    if company is None:
        core.saver.follow_policy(replace(core.policy, ranks=(0, 1)), core.steps_done)
    elif not any(known is model for known in company.sharded):
        sharding.follow_statistics(model)
        company.sharded.append(model)
        save_in_parts(core, company)


def share_buffers(core: Core) -> None:
    """Have all processes go on with rank 0's buffers, those of averages included."""
    if core.company is None:
        return
    core.company.end_loop()
    for average in core.tracked.averages:
        if not average.is_swapped and not sharding.is_sharded_module(average.module):
            core.company.same_tensors(average.module.buffers())


def _position(core: Core | None) -> int | None:
    return None if core is None or core.closed else core.steps_done


def _way_back(core: Core | None) -> str:
    saver = getattr(core, "saver", None)  # not there yet while the folder is being opened
    return "start it again" if saver is None else saver.way_back()
