"""Mixed precision, clipping and accumulation, by one word each.

``fp32`` computes as the model is; ``bf16`` computes matrix products in bfloat16 under autocast; ``fp16`` does so in
float16 with a loss scale that grows and shrinks by itself. The weights stay float32 in all three. ``O2`` and ``O3``
make the weights themselves half; see `half_weights.py`.

An *accumulation window* is a group of batches whose gradients make one update. Which batches those are is a function of
the position in the loop: batch p of n belongs to the window that starts at p - p mod A and has A batches, fewer at the
end of the loop. The loss of each is divided by the true number, so that the last update of an epoch counts fully.

Several losses may have a scale each. Gradients of two scales cannot be added, so before a loss of another scale goes
backward, those that are there are unscaled and put aside; the update adds them again. An overflow in any of them skips
the update of that optimizer, and lowers the scale of the loss that caused it.

Law: an update is one event: unscale, clip, optimizer, scheduler, zero_grad; a scheduler does not move when the scaler
skipped the update. Off means off: without float16 there is no scaler, in fp32 no autocast context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rekindle.errors import ConfigError, RunError
from rekindle.run.half_weights import HalfWeights
from rekindle.run.sharded import is_sharded

__all__ = ["Precision", "Updater", "Window", "meaning", "parse_precision", "window_at"]

Precision = Literal["fp32", "bf16", "fp16", "bf16-true", "fp16-true", "O2", "O3"]

_NAMES: dict[str, Precision] = {
    "fp32": "fp32",
    "32": "fp32",
    "32-true": "fp32",
    "float32": "fp32",
    "o0": "fp32",
    "bf16": "bf16",
    "bf16-mixed": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "16": "fp16",
    "16-mixed": "fp16",
    "fp16-mixed": "fp16",
    "float16": "fp16",
    "bf16-true": "bf16-true",
    "fp16-true": "fp16-true",
    "16-true": "fp16-true",
    "o2": "O2",
    "o3": "O3",
}
_NEED_GPU = ("fp16", "fp16-true")
DEFAULT_SCALER = "scaler"


def parse_precision(name: str, device: torch.device) -> Precision:
    """Return the precision that a word means on a device.

    Raises:
        ConfigError: no such word, or fp16 without a GPU.
    """
    word = str(name).lower()
    if word == "o1":
        return "bf16" if device.type == "cpu" else "fp16"
    found = _NAMES.get(word)
    if found is None:
        raise ConfigError(
            f"precision {name!r} is not known",
            why="the words are fp32, bf16 and fp16 (also 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true, O0 to O3)",
            do='Run(..., precision="bf16")',
        )
    if found in _NEED_GPU and device.type == "cpu":
        raise ConfigError(
            f"precision {found} needs a GPU, and this run is on the CPU",
            why="processors have no fast float16: a convolution takes a hundred times as long in it as in float32",
            do='Run(..., precision="bf16") works here, and so does "fp32"',
        )
    return found


def meaning(name: str, device: torch.device) -> str:
    """Return in one line what a precision becomes on a device: ``O2 is float16 weights, ...``."""
    precision = parse_precision(name, device)
    kind = _kind_of(precision, device)
    half = str(kind.half).removeprefix("torch.")
    scale = ", and a loss scale that adapts itself" if kind.scaled else ", and no loss scale"
    if kind.weights is None:
        words = (
            "float32 throughout" if kind.half is None else f"float32 weights, autocast to {half} in each step{scale}"
        )
    elif kind.masters:
        words = f"{half} weights, BatchNorm and master weights in float32{scale}"
    else:
        words = f"{half} throughout, BatchNorm and the optimizer's state included, and no loss scale"
    instead = "; float16 needs a GPU" if device.type == "cpu" and str(name).lower() in {"o1", "o2", "o3"} else ""
    return f"precision {name} is {words}{instead}"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a precision does.

    Attributes:
        half: what is computed in, where that is not float32.
        weights: what the weights become; None where they stay.
        masters: whether BatchNorm stays float32 and the optimizer gets float32 copies of the rest.
        scaled: whether losses are scaled.
    """

    half: torch.dtype | None = None
    weights: torch.dtype | None = None
    masters: bool = False
    scaled: bool = False


def _kind_of(precision: Precision, device: torch.device) -> _Kind:
    half = torch.bfloat16 if device.type == "cpu" else torch.float16
    match precision:
        case "fp32":
            return _Kind()
        case "bf16":
            return _Kind(torch.bfloat16)
        case "fp16":
            return _Kind(torch.float16, scaled=True)
        case "O2":
            return _Kind(half, half, masters=True, scaled=half == torch.float16)
        case "O3":
            return _Kind(half, half)
        case "bf16-true":
            return _Kind(torch.bfloat16, torch.bfloat16)
        case "fp16-true":
            return _Kind(torch.float16, torch.float16)
    raise AssertionError(precision)


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
        scalers: name -> the loss scale of float16, to be tracked; empty where nothing is scaled.
        skipped: optimizer updates that were left out because a gradient had overflowed.
        weights: what makes models half; None where the weights stay as they are.
        together: gives every process the mean of tensors over the processes, in place; set where gradients of several
            scales are put aside before they were reduced.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        """Make the scaler where one is needed."""
        self.precision = precision
        self.device = device
        self._kind = _kind_of(precision, device)
        self.scalers: dict[str, GradScaler] = {}
        self.skipped = 0
        self.weights = None if self._kind.weights is None else HalfWeights(self._kind.weights, self._kind.masters)
        if self._kind.scaled:
            self.scaler = GradScaler(device.type)
        self.together: Callable[[list[torch.Tensor]], None] | None = None
        self._awaiting_update: dict[int, torch.optim.Optimizer] = {}  # stepped, and others are not yet
        self._scaled_by: str | None = None  # the scale of the gradients that lie in the parameters
        self._aside: dict[torch.Tensor, torch.Tensor] = {}  # unscaled gradients of other scales
        self._odd: dict[int, list[torch.Tensor]] = {}  # id of an optimizer -> flags of overflow of what lies aside
        self._asked: dict[str, list[_Gradients]] = {}  # GradScaler knows them by id: alive until its update

    @property
    def scaler(self) -> GradScaler | None:
        """The scale of losses that name none; None where nothing is scaled."""
        return self.scalers.get(DEFAULT_SCALER)

    @scaler.setter
    def scaler(self, value: GradScaler) -> None:
        self.scalers[DEFAULT_SCALER] = value

    def scaler_named(self, name: str) -> GradScaler | None:
        """Return the scale of this name, made now if there is none; None where nothing is scaled."""
        if not self.scalers:
            return None
        if name not in self.scalers:
            self.scalers[name] = GradScaler(self.device.type)
        return self.scalers[name]

    @property
    def half(self) -> torch.dtype | None:
        """What is computed in, where the weights themselves stay float32; None where all is."""
        return None if self._kind.weights is not None else self._kind.half

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context to compute the loss in; one that does nothing where the weights decide."""
        if self._kind.half is None or self._kind.weights is not None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._kind.half)

    def backward(
        self,
        loss: torch.Tensor,
        divide_by: int,
        *,
        scaler: str | None = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        **settings: Any,
    ) -> None:
        """Add the gradients of ``loss / divide_by``, scaled where the precision needs it.

        Args:
            loss: one number.
            divide_by: batches of the window.
            scaler: name of the loss's own scale; None for the one that all others share.
            optimizers: all whose gradients may be under way.
            **settings: as of `torch.Tensor.backward`.
        """
        if divide_by != 1:
            loss = loss / divide_by
        if self.scalers:
            name = scaler or DEFAULT_SCALER
            if self._scaled_by not in {None, name}:
                for optimizer in optimizers:
                    self._put_aside(optimizer)
            self._scaled_by = name
            scale = cast("GradScaler", self.scaler_named(name))
            loss = scale.scale(loss)
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

        Raises:
            ConfigError: a bound that cannot be meant.
            RunError: the gradients of a precision with a loss scale did not come from `backward`; or the optimizer asks
                for the loss several times in each step.
        """
        if clip_norm is not None or clip_value is not None:
            _check_bounds(clip_norm=clip_norm, clip_value=clip_value)
        for optimizer in optimizers:
            odd = self._unscale(optimizer) if self.scalers else ()
            if self.weights is not None:
                self.weights.take_gradients(optimizer)
            parameters = _with_gradients(optimizer)
            if clip_value is not None:
                torch.nn.utils.clip_grad_value_(parameters, clip_value)
            if clip_norm is not None:
                _clip_norm(parameters, clip_norm)
            if any(float(value) > 0 for value in odd):
                self.skipped += 1
            # With a scale, an optimizer that has no gradients at all is not stepped, as torch's scaler has it.
            elif parameters or not self.scalers:
                _step(optimizer)
                for scheduler in schedulers:
                    if scheduler.optimizer is optimizer and not isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            self._awaiting_update[id(optimizer)] = optimizer
        if len(self._awaiting_update) >= all_optimizers:
            # A loss may have left gradients with an optimizer that was stepped before it. Added to the next ones they
            # would make a wrong update, and another one after a resume: no snapshot holds gradients.
            for optimizer in self._awaiting_update.values() if all_optimizers > 1 else ():
                self._clear(optimizer)
            self.end_step()

    def end_step(self) -> None:
        """Adapt the loss scales; called once all optimizers of a step were stepped, or the step is over."""
        if self._awaiting_update:
            for name in self._asked:
                self.scalers[name].update()
            self._asked.clear()
            self._odd.clear()
        self._awaiting_update.clear()

    def holds_gradients(self, optimizers: Sequence[torch.optim.Optimizer]) -> bool:
        """Tell whether any gradient of these optimizers waits for its update."""
        if self._aside or (self.weights is not None and self.weights.hold_gradients()):
            return True
        for optimizer in optimizers:  # in plain loops: a window that is accumulated by hand asks at each batch
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        return True
        return False

    def _clear(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradients of an optimizer, wherever they lie."""
        if self.weights is not None:
            self.weights.take_gradients(optimizer)
        self._odd.pop(id(optimizer), None)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
                self._aside.pop(parameter, None)

    def _unscale(self, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        """Give an optimizer's gradients their true size, those put aside included; return flags of overflow."""
        odd = self._odd.pop(id(optimizer), [])
        odd += self._found_odd(optimizer)
        if not self._aside:
            return odd
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                gradient = self._aside.pop(parameter, None)
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        if self.together is not None:
            # Those of the window's last batch were reduced, the others not: a mean of what is the same changes nothing.
            self.together([cast("torch.Tensor", parameter.grad) for parameter in _with_gradients(optimizer)])
        return odd

    def _put_aside(self, optimizer: torch.optim.Optimizer) -> None:
        self._odd.setdefault(id(optimizer), []).extend(self._found_odd(optimizer))
        for parameter in _with_gradients(optimizer):
            gradient = cast("torch.Tensor", parameter.grad)
            known = self._aside.get(parameter)
            self._aside[parameter] = gradient if known is None else known.add_(gradient)
            parameter.grad = None

    def _found_odd(self, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        """Unscale the gradients that lie in the parameters, and return a flag per device: above 0 for an overflow."""
        if self.weights is not None:
            self.weights.take_gradients(optimizer)
        parameters = _with_gradients(optimizer)
        if not parameters:
            return []
        if self._scaled_by is None:
            raise RunError(
                f"precision {self.precision}: gradients are there that run.backward did not make",
                why="without the loss scale small gradients in float16 become zero",
                do="run.backward(loss) instead of loss.backward()",
            )
        _refuse_half(parameters, self.precision)
        scaler, gradients = self.scalers[self._scaled_by], _Gradients(parameters)
        self._asked.setdefault(self._scaled_by, []).append(gradients)
        scaler.unscale_(cast("torch.optim.Optimizer", gradients))
        found: Mapping[Any, torch.Tensor] = scaler._found_inf_per_device(  # noqa: SLF001 - torch has no public way to ask before update()
            cast("torch.optim.Optimizer", gradients)
        )
        flags = list(found.values())
        if self.together is not None and len(self.scalers) > 1:
            self.together(flags)  # an overflow on one process is one on all
        return flags


class _Gradients:
    """What `GradScaler.unscale_` asks of an optimizer: it is asked once per optimizer, and we may come back."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        self.param_groups = [{"params": parameters}]


def _step(optimizer: torch.optim.Optimizer) -> None:
    try:
        optimizer.step()
    except TypeError as error:
        if "closure" not in str(error):
            raise
        raise RunError(
            f"run.update() cannot step {type(optimizer).__name__}",
            why="it computes the loss anew several times in each step, and asks for a function that does so",
            do="optimizer.step(closure) in the place of run.backward and run.update; run.step() after it as ever",
        ) from error


def _check_bounds(**bounds: float | None) -> None:
    """Refuse bounds that would leave no gradient, or turn all of them round."""
    for name, bound in bounds.items():
        if bound is not None and not bound > 0:
            raise ConfigError(
                f"run.update({name}={bound!r}): gradients cannot be clipped to that",
                why="0 leaves nothing of them, and a negative bound turns them round: the loss would grow",
                do=f"run.update({name}=1.0), or leave it out for no clipping",
            )


def _with_gradients(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _clip_norm(parameters: Sequence[torch.Tensor], largest: float) -> None:
    """Clip by the norm of all gradients together; torch itself does not take sharded ones beside others."""
    sharded = [p for p in parameters if is_sharded(p.grad)]
    if not sharded or len(sharded) == len(parameters):
        torch.nn.utils.clip_grad_norm_(parameters, largest)
        return
    groups = [sharded, [p for p in parameters if not is_sharded(p.grad)]]
    norms: list[Any] = [
        torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups
    ]
    whole = torch.stack([norm.full_tensor() if is_sharded(norm) else norm for norm in norms]).norm()
    factor = min(1.0, largest / (float(whole) + 1e-6))  # as torch's
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _refuse_half(parameters: Sequence[torch.Tensor], precision: str) -> None:
    for parameter in parameters:
        if parameter.dtype == torch.float16:
            raise RunError(
                f"precision {precision}: the optimizer holds weights in float16, of shape {list(parameter.shape)}",
                why="autocast needs float32 weights: updates as small as theirs are lost in float16",
                do='leave model.half() out, or let rekindle keep float32 copies: Run(..., precision="O2")',
            )
