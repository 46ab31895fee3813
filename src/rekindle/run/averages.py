"""Averaged weights of a model: an exponential moving average (EMA), or the plain mean of the last part (SWA).

`average` makes a copy of a model that follows it. A tracked one is updated by `run.step()`, saved in every snapshot as
a model of its own (the same keys, loadable by the same class), and restored with its count, so that a resumed run
averages on to the bit. It is a module: call it, or evaluate it, like the model itself. `swapped` lends its weights to
the model for the length of a ``with``.

The arithmetic is torch's own (`torch.optim.swa_utils`). Its `AveragedModel` keeps the count in a tensor and reads it at
every update, which on a GPU makes the processor wait; here it is a Python number.

Law: nothing is saved, and no update is counted, while the weights are swapped.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from rekindle.bare_model import bare_model
from rekindle.errors import ConfigError, RunError, StateMismatch
from rekindle.keys import canonical_key, near_names
from rekindle.parallel.fsdp import is_sharded_module, show_parts
from rekindle.run.half_weights import without_casts

__all__ = ["Average", "average", "copy_weights"]


class Average(nn.Module):
    """A copy of a model that holds averages of its weights. Made by `average`.

    Attributes:
        module: the copy, in eval mode and without gradients.
        updates: how many states of the model the average is made of.
        is_swapped: whether the model holds the averages just now.
    """

    def __init__(
        self, model: nn.Module, *, decay: float | None, buffers: str, every: int, start: int, warmup: bool
    ) -> None:
        """Copy the model as it is."""
        super().__init__()
        source = bare_model(model)
        if any(nn.parameter.is_lazy(tensor) for tensor in [*source.parameters(), *source.buffers()]):
            raise RunError(
                "rk.average: the model has parameters without a shape yet",
                why="a lazy module gets them from its first batch",
                do="send one batch through the model before averaging it",
            )
        if is_sharded_module(source):
            raise RunError(
                "rk.average: the model is sharded already, and torch cannot copy it",
                why="its weights are parts of tensors that other processes have too",
                do='make the average first, and give both to run.prepare(model, optimizer, ema, shard="fsdp")',
            )
        self._source = (source,)  # in a tuple, so that it is no part of this module
        self.module = without_casts(copy.deepcopy(source)).requires_grad_(False).eval()
        self._decay, self._every, self._start, self._warmup = decay, every, start, warmup
        self._averages_buffers = buffers == "average"
        self._seen = 0
        self.updates = 0
        self.is_swapped = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute with the averaged weights."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model as it is now; `run.step()` does it for an average that is tracked.

        Raises:
            RunError: inside `swapped`.
        """
        self._refuse_while_swapped("update()")
        self._seen += 1
        (source,) = self._source
        show_parts(source)
        late = self._seen - self._start
        averaged: list[tuple[torch.Tensor, torch.Tensor]]
        averaged = list(zip(self.module.parameters(), source.parameters(), strict=True))
        copied = list(zip(self.module.buffers(), source.buffers(), strict=True))
        if self._averages_buffers:
            averaged += [pair for pair in copied if pair[0].is_floating_point()]
            copied = [pair for pair in copied if not pair[0].is_floating_point()]
        # Weights of 8 bits or whole numbers are made of others and trained by nobody: they have no mean.
        copied += [pair for pair in averaged if not _has_a_mean(pair[0])]
        averaged = [pair for pair in averaged if _has_a_mean(pair[0])]
        if late > 0 and late % self._every:
            return
        if late <= 0 or self.updates == 0:
            copied, averaged = [*copied, *averaged], []
        if late > 0:
            self._average(averaged)
            self.updates += 1
        for mine, live in copied:
            mine.copy_(live)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """Lend the averages to the model; afterwards it has its own weights back, to the bit.

        Takes memory for one more copy of the weights. Nothing can be saved inside.
        """
        self._refuse_while_swapped("swapped()")
        (source,) = self._source
        show_parts(source)
        show_parts(self.module)
        live = [*source.parameters(), *source.buffers()]
        mine = [*self.module.parameters(), *self.module.buffers()]
        kept = [tensor.detach().clone() for tensor in live]
        self.is_swapped = True
        try:
            _copy_all(live, mine)
            yield source
        finally:
            show_parts(source)  # or what a pass gathered last would be gone on with
            _copy_all(live, kept)
            self.is_swapped = False

    def copy_to(self, model: nn.Module) -> None:
        """Give another model of the same structure, or the model itself, the averaged weights for good."""
        copy_weights(self.module, model)

    def get_extra_state(self) -> dict[str, int]:
        """Return the counters, which belong to the state."""
        return {"seen": self._seen, "updates": self.updates}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        """Take the counters over."""
        self._seen, self.updates = state["seen"], state["updates"]

    def _average(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Move the averages towards the live values, by one kernel per device and type."""
        decay = self._decay
        if decay is not None and self._warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        make: Callable[..., Callable[..., None]] = get_swa_multi_avg_fn if decay is None else get_ema_multi_avg_fn
        move = make() if decay is None else make(decay)
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for mine, live in pairs:
            groups.setdefault((mine.device, mine.dtype), []).append((mine.detach(), live.detach().to(mine)))
        for group in groups.values():
            move([mine for mine, _ in group], [live for _, live in group], self.updates)

    def _refuse_while_swapped(self, what: str) -> None:
        if self.is_swapped:
            raise RunError(
                f"{what} inside average.swapped()",
                why="the model holds the averaged weights just now, not its own",
                do="leave the with block first",
            )


def average(
    model: nn.Module,
    decay: float | None = 0.999,
    *,
    buffers: Literal["copy", "average"] = "copy",
    every: int = 1,
    start: int = 0,
    warmup: bool = False,
) -> Average:
    """Return a copy of a model that follows it as an average; track it, and `run.step()` updates it.

    Args:
        model: on its device already; wrappers of DDP and `torch.compile` are looked through.
        decay: how much of the old average stays at an update, 0 to 1; None for the plain mean of all states since
            `start`, as in stochastic weight averaging.
        buffers: what becomes of BatchNorm's statistics and the like: ``"copy"`` the model's newest, or ``"average"``
            them too. Whole numbers are always copied.
        every: updates of the model from one averaging to the next.
        start: updates of the model before the first averaging; until then the copy is the model as it is.
        warmup: begin with a small decay, (1 + n) / (10 + n) at averaging n, while that is below `decay`.

    Raises:
        ConfigError: a value that cannot be meant.
        RunError: the model has no weights yet.

    Example:
        ema = rk.average(model, decay=0.999)
        run.track(model=model, optimizer=optimizer, ema=ema)
        ...
        with run.evaluating(ema):
            run.log(accuracy=accuracy_of(ema))
    """
    if decay is not None and not 0 <= decay < 1:
        raise ConfigError(
            f"decay={decay!r} is not a part from 0 to below 1",
            why="it is how much of the old average stays at each update",
            do="rk.average(model, decay=0.999), or decay=None for the plain mean",
        )
    if buffers not in {"copy", "average"}:
        raise ConfigError(f"buffers={buffers!r} is not known", why='it is "copy" or "average"')
    for name, value, least in (("every", every, 1), ("start", start, 0)):
        if not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}={value!r} is not a number of updates of at least {least}")
    return Average(model, decay=decay, buffers=buffers, every=every, start=start, warmup=warmup)


@torch.no_grad()
def copy_weights(source: nn.Module | Mapping[str, torch.Tensor], target: nn.Module) -> int:
    """Copy all parameters and buffers of one model into another of the same structure, in place.

    Args:
        source: a model, or its state dict. Prefixes of DDP and `torch.compile` do not matter.
        target: takes the values on its own device and in its own types.

    Returns:
        How many tensors were copied.

    Raises:
        StateMismatch: a key is missing on either side, or has another shape; nothing was changed.

    Example:
        teacher = build()
        rk.copy_weights(student, teacher)
    """
    given = source.state_dict() if isinstance(source, nn.Module) else source
    mine = {canonical_key(key): value for key, value in target.state_dict(keep_vars=True).items() if _is_tensor(value)}
    theirs = {canonical_key(key): value for key, value in given.items() if _is_tensor(value)}
    lines = [f"missing     {key}{_nearest(key, theirs, mine)}" for key in mine if key not in theirs]
    lines += [f"unexpected  {key}{_nearest(key, mine, theirs)}" for key in theirs if key not in mine]
    lines += [
        f"other       {key}: {list(theirs[key].shape)} there, {list(mine[key].shape)} here"
        for key in mine
        if key in theirs and mine[key].shape != theirs[key].shape
    ]
    if lines:
        rest = [f"and {len(lines) - 8} more"] if len(lines) > 8 else []
        raise StateMismatch(
            f"rk.copy_weights: {len(lines)} of the keys do not fit; nothing was copied",
            why="\n          ".join([*lines[:8], *rest]),
            do="make both models alike; for a part of a model, copy that part: rk.copy_weights(a.backbone, b.backbone)",
        )
    for key, tensor in mine.items():
        tensor.copy_(theirs[key])
    return len(mine)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _nearest(key: str, there: Mapping[str, object], here: Mapping[str, object]) -> str:
    near = near_names(key, [name for name in there if name not in here], 1)
    return f"; nearest: {near[0]}" if near else ""


@torch.no_grad()
def _copy_all(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _has_a_mean(tensor: torch.Tensor) -> bool:
    return tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1)
