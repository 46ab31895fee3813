"""What a run was told, checked: the arguments of `rekindle.Run` as one value.

Law: whatever cannot be meant is refused here, before anything is made or touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rekindle.devices.move import device_named
from rekindle.errors import ConfigError
from rekindle.parallel.elastic import Elastic
from rekindle.parallel.ranks import Ranks, device_of
from rekindle.run.early_stop import TimeLimit
from rekindle.run.early_stop import time_limit as parse_time_limit
from rekindle.run.policy import parse_best, parse_save_every, parse_when_busy
from rekindle.run.precision import Precision, parse_precision
from rekindle.run.saving import SavePolicy
from rekindle.store.commit import Committed

__all__ = ["DECIDE_BITS", "Settings", "check_settings"]

# Settings that may change between two lives, and are said then.
DECIDE_BITS = ("precision", "accumulate", "device", "deterministic", "elastic")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was told.

    Attributes:
        policy: how often to save, and what stays.
        device: where to compute.
        precision: what to compute in.
        level: the level O0 to O3 that the precision was given as; None where it was given by its name.
        accumulate: batches to an update; with `elastic`, its parts of a batch.
        elastic: what makes bits independent of the number of processes; None where nobody asked.
        limit: when the process's time is over; None for never.
        save_by_all: whether every process writes its share of a snapshot.
        deterministic: whether torch is to use deterministic algorithms only.
        words: what ``run.json`` says of them.
    """

    policy: SavePolicy
    device: torch.device
    precision: Precision
    level: str | None
    accumulate: int
    elastic: Elastic | None
    limit: TimeLimit | None
    save_by_all: bool
    deterministic: bool
    words: Mapping[str, Any]


def check_settings(
    ranks: Ranks,
    *,
    seed: int | None,
    save_every: str | None,
    keep_last: int | None,
    keep_every: int | None,
    keep_best: str | None,
    keep_best_mode: Literal["max", "min"] | None,
    precision: str,
    accumulate: int,
    device: str | torch.device | None,
    deterministic: bool,
    time_limit: str | None,
    on_saved: Callable[[Committed], object] | None,
    background: bool,
    when_busy: Literal["wait", "skip"],
    elastic: Literal["bits"] | None,
    shards: int,
    save_by: Literal["one", "all"],
) -> Settings:
    """Return the settings of a run; arguments as of `rekindle.Run`.

    Raises:
        ConfigError: one of them cannot be meant.
    """
    policy = SavePolicy(
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
    chosen = device_of(ranks, device) or device_named(device)
    computes_in = parse_precision(precision, chosen)
    limit = parse_time_limit(time_limit)
    if save_by not in {"one", "all"}:
        raise ConfigError(f'save_by={save_by!r} is not "one" or "all"')
    tree = _make_elastic(elastic, shards, accumulate, ranks)
    return Settings(
        policy=policy,
        device=chosen,
        precision=computes_in,
        level=precision if precision.upper() in {"O0", "O1", "O2", "O3"} else None,
        accumulate=accumulate if tree is None else tree.parts,
        elastic=tree,
        limit=limit,
        save_by_all=save_by == "all",
        deterministic=deterministic,
        words={
            "save_every": save_every,
            "keep_last": keep_last,
            "keep_every": keep_every,
            "keep_best": keep_best,
            "precision": computes_in,
            "accumulate": accumulate,
            "device": str(chosen),
            "deterministic": deterministic,
            "elastic": None if elastic is None else f"{elastic}, {shards} shards",
        },
    )


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


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise ConfigError(f"{name}={count!r} is not a whole number of at least 1")
