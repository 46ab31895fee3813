"""Mixed precision, clipping and accumulation, by one word each.

``fp32`` computes as the model is; ``bf16`` computes matrix products in bfloat16 under autocast; ``fp16`` does so in
float16 with a loss scale that grows and shrinks by itself. The weights stay float32 in all three.

An *accumulation window* is a group of batches whose gradients make one update. Which batches those are is a function of
the position in the loop: batch p of n belongs to the window that starts at p - p mod A and has A batches, fewer at the
end of the loop. The loss of each is divided by the true number, so that the last update of an epoch counts fully.

Law: an update is one event: unscale, clip, optimizer, scheduler, zero_grad; a scheduler does not move when the scaler
skipped the update.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rekindle.errors import ConfigError

__all__ = ["Precision", "Updater", "Window", "parse_precision", "window_at"]

Precision = Literal["fp32", "bf16", "fp16"]

_NAMES: dict[str, Precision] = {
    "fp32": "fp32",
    "32": "fp32",
    "32-true": "fp32",
    "float32": "fp32",
    "bf16": "bf16",
    "bf16-mixed": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "16-mixed": "fp16",
    "fp16-mixed": "fp16",
    "float16": "fp16",
}


def parse_precision(name: str, device: torch.device) -> Precision:
    """Return the precision that a word means on a device.

    Raises:
        ConfigError: no such word, or fp16 without a GPU.
    """
    found = _NAMES.get(str(name).lower())
    if found is None:
        raise ConfigError(
            f"precision {name!r} is not known",
            why="the words are fp32, bf16 and fp16 (also 32-true, bf16-mixed, 16-mixed)",
            do='Run(..., precision="bf16")',
        )
    if found == "fp16" and device.type == "cpu":
        raise ConfigError(
            "precision fp16 needs a GPU, and this run is on the CPU",
            why="processors have no fast float16, and most layers lack it altogether",
            do='Run(..., precision="bf16") works here, and so does "fp32"',
        )
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """An accumulation window.

    Attributes:
        length: batches whose gradients make one update.
        closes: whether this batch is the last of them.
    """

    length: int
    closes: bool


def window_at(position: int, accumulate: int, length: int | None) -> Window:
    """Return the window of the batch at `position`, counted from 0, in a loop of `length` batches (None: no end)."""
    start = position - position % accumulate
    count = accumulate if length is None else max(1, min(accumulate, length - start))
    return Window(count, position >= start + count - 1)


class Updater:
    """Turns gradients into an update, for one precision.

    Args:
        precision: what to compute in.
        device: where.

    Attributes:
        scaler: the loss scale of fp16, to be tracked; None otherwise.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        """Make the scaler where one is needed."""
        self.precision = precision
        self.device = device
        self.scaler: GradScaler | None = GradScaler(device.type) if precision == "fp16" else None
        self._awaiting_update: set[int] = set()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context to compute the loss in."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def backward(self, loss: torch.Tensor, divide_by: int, **settings: Any) -> None:
        """Add the gradients of ``loss / divide_by``, scaled where the precision needs it."""
        if divide_by != 1:
            loss = loss / divide_by
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward(**settings)  # type: ignore[no-untyped-call] # torch leaves it untyped

    def update(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[LRScheduler],
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        all_optimizers: int = 1,
    ) -> None:
        """Make one update with the gradients there are.

        Args:
            optimizers: which to step.
            schedulers: all; those of these optimizers are stepped, unless the scaler skipped the update.
                `ReduceLROnPlateau` waits for a metric and is left to the loop.
            clip_norm: largest norm of all gradients of one optimizer together, taken unscaled.
            clip_value: largest absolute value of any gradient.
            all_optimizers: how many there are; the scale is adapted once all were stepped.
        """
        for optimizer in optimizers:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            if self.scaler is not None and parameters:
                self.scaler.unscale_(optimizer)
            if clip_value is not None:
                torch.nn.utils.clip_grad_value_(parameters, clip_value)
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
            stepped = self._step(optimizer, any_gradient=bool(parameters))
            if stepped:
                for scheduler in schedulers:
                    if scheduler.optimizer is optimizer and not isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            self._awaiting_update.add(id(optimizer))
        if len(self._awaiting_update) >= all_optimizers:
            self.end_step()

    def end_step(self) -> None:
        """Adapt the loss scale; called once all optimizers of a step were stepped, or the step is over."""
        if self.scaler is not None and self._awaiting_update:
            self.scaler.update()
        self._awaiting_update.clear()

    def _step(self, optimizer: torch.optim.Optimizer, *, any_gradient: bool) -> bool:
        """Step an optimizer; return False where the scaler skipped it."""
        if self.scaler is None:
            optimizer.step()
            return True
        if not any_gradient:
            return False
        # Read before the step: a fused optimizer skips inside its kernel, so that the step itself tells nothing.
        found = self.scaler._found_inf_per_device(optimizer)  # noqa: SLF001 - torch has no public way to ask before update()
        skipped = any(float(value) > 0 for value in found.values())
        self.scaler.step(optimizer)
        return not skipped
