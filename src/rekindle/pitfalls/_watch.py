"""Pitfalls looked for while a run trains, at moments that cost next to nothing.

What is looked at, and when:

  before the updates 1, 2, 4, 8 ... 1024   gradients of that optimizer, and its learning rates
  the first update of an epoch             flags of the layers; what the optimizer holds
  `run.step()` after any of these          losses in the caller's frame: how they were made, and their values
  the first batch of a loop                size and order of the samples, and whether gradients are recorded
  the end of an epoch                      norms that moved where no update was made; rates and gradients all along

Of epochs the first three of a life are looked at, then those 4, 8, 16... after the first.

Law: nothing is drawn, computed or kept that could change a bit. There are no hooks on modules, which copies and pickles
of a model would carry along; those on an optimizer are not part of its state, and the one on a parameter is gone after
four updates. Whatever goes wrong in here is silent: it must not end a training.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import random
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from rekindle.bare_model import bare_model
from rekindle.finding import Severity
from rekindle.pitfalls import find_pitfalls
from rekindle.pitfalls._graph import added_up, describe_loss
from rekindle.pitfalls._looking import (
    groups_of,
    held_by,
    layers_of,
    sampler_of,
    samples_of,
    shared_samples,
    state_elsewhere,
    weights_of,
)
from rekindle.pitfalls._places import line_of
from rekindle.pitfalls._seen import Call, Gradient, Loss, Samples, Seen
from rekindle.render import finding_lines

if TYPE_CHECKING:
    from rekindle.run.core import Core

__all__ = ["Watch"]

_LAST_LOOK = 1024
_FOLLOWED = 4  # updates in which it is looked whether gradients are cleared
_MOST_LOCALS = 300
_MOST_INDICES = 200_000
_MOST_BYTES = 65_536


class Watch:
    """What watches over a run; asked by `Run` at its boundaries.

    Attributes:
        due: whether the next `run.step` is to be looked at.
        failed: what went wrong in here, for tests; None where nothing did.
    """

    def __init__(self) -> None:
        """Begin to watch; nothing is tracked yet."""
        self.due = False
        self.failed: Exception | None = None
        self._eyes: dict[int, _Eye] = {}
        self._said: set[str] = set()
        self._values: dict[str, list[float]] = {}
        self._kept: dict[str, list[int]] = {}
        self._loop: Any = None  # the one whose source is known
        self._source: Any = None
        self._samples: dict[int, Samples] = {}
        self._starts: dict[int, tuple[int, object]] = {}  # data set -> epoch, and how it began
        self._frozen_order = ""
        self._loaders: list[weakref.ref[Any]] = []
        self._batch_size: int | None = None
        self._first_epoch: int | None = None
        self._dropping: tuple[str, ...] = ()
        self._counters: tuple[int, dict[str, int]] | None = None

    # ---- what `Run` calls

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at an optimizer's updates."""
        eye = _Eye(optimizer, self)
        self._eyes[id(optimizer)] = eye
        optimizer.register_step_pre_hook(eye.before)

    def knows(self, loader: Any) -> None:
        """Remember a loader of the run."""
        self._loaders.append(weakref.ref(loader))

    def begin_loop(self, run: Core, loop: Any, source: Any, batch: Any) -> None:
        """Look at the first batch of a loop."""
        with self._silently():
            if not torch.is_grad_enabled():
                self._look_outside(run)
                return
            self._loop, self._source = loop, source
            self.due = self.due or self._is_looked_at(run.epoch)
            first = _first_tensor(batch)
            self._batch_size = int(first.shape[0]) if first is not None and first.dim() else None
            self._look_at_order(run.epoch, source, first)

    def look(self, run: Core, frame: FrameType) -> None:
        """Look at the update that was just made, and at what its loop holds."""
        self.due = False
        with self._silently():
            local = _locals_of(frame)
            is_moment = any(eye.looked_at == eye.count for eye in self._eyes.values())
            for name, model in self._models(run).items():
                seen = self._seen(run, name, model)
                seen.losses = self._look_at_losses(run, local, model, is_moment=is_moment)
                seen.values = {key: tuple(values) for key, values in self._values.items()}
                if is_moment:
                    seen.kept = tuple(self._look_at_what_is_kept(local, line_of(frame)))
                seen.calls = _call_of(seen)
                self._say(run, seen)

    def end_loop(self, run: Core, loop: Any) -> None:
        """Note the counters of norms where a loop that made updates ends."""
        if not self._is_looked_at(run.epoch) or loop.around is not None:
            return
        steps = run.steps_done
        if self._counters is None or self._counters[0] != steps:
            with self._silently():
                self._counters = (steps, self._count_norms(run))

    def end_epoch(self, run: Core) -> None:
        """Look back at an epoch."""
        if not self._is_looked_at(run.epoch):
            return
        with self._silently():
            moved = self._moved(run)
            if not run.places.any_loop and any(_repeats(loader) for loader in self._loaders):
                self._frozen_order = "direct"
            for name, model in self._models(run).items():
                seen = self._seen(run, name, model)
                seen.is_epoch_over = True
                eyes = [eye for eye in self._eyes.values() if eye.looks >= 2]
                names = _names(model)
                seen.never = tuple(names[key] for eye in eyes for key in eye.never if key in names)
                seen.looks = min((eye.looks for eye in eyes), default=0)
                own = {f"{name}.{layer.name}".removesuffix(".") for layer in seen.layers}
                seen.moved_outside = tuple(one for one in moved if one in own)
                seen.is_training = False
                self._say(run, seen)

    # ---- looking

    def _is_looked_at(self, epoch: int) -> bool:
        """Whether an epoch is one of this life's first three, or comes 4, 8, 16... epochs after the first."""
        if self._first_epoch is None:
            self._first_epoch = epoch
        number = epoch - self._first_epoch
        return number < 3 or number & (number - 1) == 0

    @contextlib.contextmanager
    def _silently(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self.failed = error

    def _models(self, run: Core) -> dict[str, nn.Module]:
        """Return the tracked models that a tracked optimizer trains, by the names that they are tracked under."""
        held = held_by(self._optimizers())
        halves = run.updater.weights is not None  # optimizers then hold copies
        tracked = run.tracked.objects
        return {
            name: bare_model(value)
            for name, value in tracked.items()
            if isinstance(value, nn.Module)
            and not isinstance(value, AveragedModel)
            and (halves or any(id(parameter) in held for parameter in value.parameters()))
        }

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        alive = (eye.optimizer() for eye in self._eyes.values())
        return [optimizer for optimizer in alive if optimizer is not None]

    def _seen(self, run: Core, name: str, model: nn.Module) -> Seen:
        names, optimizers = _names(model), self._optimizers()
        held = None if run.updater.weights is not None else held_by(optimizers)
        called = {id(value): key for key, value in run.tracked.objects.items()}
        seen = Seen(
            model=name,
            layers=layers_of(model),
            weights=weights_of(model, None if held is None else set(held)),
            samples=replace(self._data(), frozen_order=self._frozen_order),
            batch_size=self._batch_size,
            dropping_outside=self._dropping,
            is_training=True,
        )
        tracked = run.tracked.objects.values()
        ours = {id(one) for value in tracked if isinstance(value, nn.Module) for one in value.parameters()}
        if held is not None:
            seen.strangers = tuple(tuple(one.shape) for key, one in held.items() if key not in ours)
            if len(_replaceable(seen)) == 0:
                seen.strangers = ()  # of another model, which is not tracked
        gradients: dict[str, Gradient] = {}
        for optimizer in optimizers:
            if not any(key in names for key in held_by([optimizer])):
                continue
            eye, known = self._eyes[id(optimizer)], called.get(id(optimizer), "optimizer")
            seen.groups += tuple(groups_of(known, optimizer))
            if "initial_lr" in optimizer.param_groups[0] and not _is_scheduled(run, optimizer):
                seen.unscheduled += (known,)
            seen.elsewhere += state_elsewhere(optimizer, names)
            gradients |= {names[key]: value for key, value in eye.gradients.items() if key in names}
            seen.updates = {**seen.updates, known: eye.ratio}
            seen.rates = {**seen.rates, **{(known, number): tuple(rates) for number, rates in enumerate(eye.rates)}}
            if eye.carried >= _FOLLOWED - 1:
                seen.carried = known
        # In the model's order, so that first and last mean the layers.
        seen.gradients = {key: gradients[key] for key in names.values() if key in gradients}
        return seen

    def _data(self) -> Samples:
        """Return what is known of the data that the loop walks over, looked at once."""
        source = self._source
        dataset = getattr(source, "dataset", None)
        if dataset is None:
            return Samples()
        if id(dataset) not in self._samples:
            samples = samples_of(source)
            # A label below 0 may be one that the loss ignores.
            lowest = None if samples.lowest is None else max(0, samples.lowest)
            self._samples[id(dataset)] = replace(samples, lowest=lowest)
            for loader in (reference() for reference in self._loaders):
                other = getattr(loader, "dataset", None)
                if loader is None or loader.shuffle or other is dataset or len(dataset) > _MOST_INDICES:
                    continue
                shared, validated = shared_samples(dataset, other, only_indices=True)
                if 0 < shared < validated:  # all of them: a look at how well the training set is known
                    known = replace(self._samples[id(dataset)], shared=shared, validated=validated)
                    self._samples[id(dataset)] = known
        return self._samples[id(dataset)]

    def _look_outside(self, run: Core) -> None:
        """Look for layers that behave as in training while no gradients are recorded."""
        for model in self._models(run).values():
            layers = layers_of(model)
            self._dropping = tuple(
                layer.name for layer in layers if layer.training and (layer.p or (layer.statistics and layer.trained))
            )
            if self._dropping:
                self.due = True
                return

    def _look_at_order(self, epoch: int, source: Any, first: torch.Tensor | None) -> None:
        """Compare how an epoch begins with how the one before did."""
        sampler = sampler_of(source)
        if not isinstance(source, DataLoader) or first is None or len(source.dataset) < 3:  # type: ignore[arg-type] # has a sampler, so a length
            return
        if isinstance(sampler, DistributedSampler) and sampler.shuffle:
            start: object = sampler.epoch
        elif isinstance(sampler, RandomSampler):
            start = _print_of(first)
        else:
            return
        before = self._starts.get(id(source.dataset))
        self._starts[id(source.dataset)] = (epoch, start)
        if before is not None and before[0] < epoch and before[1] == start:
            self._frozen_order = "sampler" if isinstance(sampler, DistributedSampler) else "generator"

    def _look_at_losses(
        self, run: Core, local: Mapping[str, Any], model: nn.Module, *, is_moment: bool
    ) -> tuple[Loss, ...]:
        names = _names(model)
        found: list[Loss] = []
        loop = run.places.current
        batches_differ = loop is not None and (loop.length is None or loop.length > 1)
        for name, value in local.items():
            if not isinstance(value, torch.Tensor) or value.numel() != 1 or value.grad_fn is None:
                continue
            described = describe_loss(name, value, names)
            if described is not None and described.last:
                found.append(described)
                if is_moment and batches_differ and "loss" in name.lower():
                    self._values.setdefault(name, []).append(float(value.detach()))
        return tuple(found)

    def _look_at_what_is_kept(self, local: Mapping[str, Any], place: str) -> Iterator[tuple[str, int, str]]:
        """Yield what grew at each of the last three looks."""
        for name, count, is_sum in _holders(local):
            history = self._kept.setdefault(name, [])
            history.append(count)
            if len(history) >= 3 and history[-3] < history[-2] < history[-1]:
                yield name, 0 if is_sum else count, place

    def _count_norms(self, run: Core) -> dict[str, int]:
        """Return how many batches each norm has learned from."""
        counts = {}
        for name, model in self._models(run).items():
            for key, module in model.named_modules():
                tracked = getattr(module, "num_batches_tracked", None)
                if isinstance(module, nn.modules.batchnorm._NormBase) and tracked is not None:  # noqa: SLF001 - torch has no public base of norms
                    counts[f"{name}.{key}"] = int(tracked)
        return counts

    def _moved(self, run: Core) -> tuple[str, ...]:
        """Return the norms that moved since the loop ended, if no update was made since."""
        if self._counters is None:
            return ()
        (steps, before), self._counters = self._counters, None
        if steps != run.steps_done:
            return ()
        now = self._count_norms(run)
        return tuple(name for name, count in before.items() if now.get(name, 0) > count)

    def _say(self, run: Core, seen: Seen) -> None:
        for finding in find_pitfalls(seen):
            if finding.code not in self._said and finding.severity.rank <= Severity.WARNING.rank:
                self._said.add(finding.code)
                run.note("\n".join(finding_lines(finding)))


class _Eye:
    """What is seen of one optimizer before its updates.

    Attributes:
        count: updates; `looked_at` the last that was looked at, `looks` how many were.
        gradients: id of a parameter -> gradient, at the last look.
        never: ids of parameters whose gradient was missing or 0 at every look.
        ratio: size of a plain SGD step against that of the weights.
        rates: of each group, at every look.
        carried: updates before which gradients of the one before were never cleared.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, watch: Watch) -> None:
        self.optimizer = weakref.ref(optimizer)
        self._watch = weakref.ref(watch)
        self.count = self.looks = self.looked_at = self.carried = 0
        self._at = 1
        self.gradients: dict[int, Gradient] = {}
        self.never: dict[int, None] = {}
        self.ratio = 0.0
        self.rates: list[list[float]] = []
        self._heard = 0
        self._was_clear = False
        self._unhook: Callable[[], None] | None = None

    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Look, at the moments that are due; called before each update."""
        self.count += 1
        if self.count != self._at and self._unhook is None:
            return
        watch = self._watch()
        if watch is None:
            return
        with watch._silently():  # noqa: SLF001 - the two halves of one watch
            closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
            if closure is not None:
                return  # gradients are computed inside of the step
            self._follow(optimizer)
            if self.count == self._at:
                self._at = self._at * 2 if self._at < _LAST_LOOK else -1
                self.looked_at = self.count
                watch.due = True
                self._look(optimizer)

    def _look(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = [one for group in optimizer.param_groups for one in group["params"] if one.requires_grad]
        self.rates = self.rates or [[] for _ in optimizer.param_groups]
        for rates, group in zip(self.rates, optimizer.param_groups, strict=False):
            rates.append(float(group["lr"]))
        if getattr(optimizer, "grad_scale", None) is not None:
            return  # still scaled: a fused optimizer unscales by itself
        self.looks += 1
        self.gradients, self.ratio = _sizes(optimizer, parameters)
        silent = {key: None for key, one in self.gradients.items() if not one.size and one.finite}
        self.never = silent if self.looks == 1 else {key: None for key in self.never if key in silent}

    def _follow(self, optimizer: torch.optim.Optimizer) -> None:
        """See whether the gradient of one small parameter begins anew for each update."""
        if self.count == 1:
            used = [
                one
                for group in optimizer.param_groups
                for one in group["params"]
                if one.requires_grad and one.grad is not None and not one.grad.is_sparse and bool(one.grad.any())
            ][:64]
            if used:
                smallest = min(used, key=lambda one: one.numel())
                self._unhook = smallest.register_hook(_Ear(self, smallest)).remove
            return
        if self._unhook is None:
            return
        self.carried += self._heard > 0 and not self._was_clear
        self._heard, self._was_clear = 0, False
        if self.count >= _FOLLOWED:
            self._unhook()
            self._unhook = None

    def hear(self, parameter: torch.Tensor) -> None:
        """Note whether there is a gradient already where one is about to be added."""
        self._heard += 1
        if parameter.grad is None or not bool(parameter.grad.any()):
            self._was_clear = True


class _Ear:
    """A hook on a parameter; holds nothing alive."""

    def __init__(self, eye: _Eye, parameter: torch.Tensor) -> None:
        self._eye, self._parameter = weakref.ref(eye), weakref.ref(parameter)

    def __call__(self, _gradient: torch.Tensor) -> None:
        eye, parameter = self._eye(), self._parameter()
        if eye is not None and parameter is not None:
            eye.hear(parameter)


def _sizes(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> tuple[dict[int, Gradient], float]:
    """Return the size of each gradient, and of a plain SGD step against the weights; one transfer per device."""
    sizes: dict[int, Gradient] = {id(one): Gradient(None) for one in parameters}
    usable = [one for one in parameters if one.grad is not None and not one.grad.is_sparse]
    for device in {one.device for one in usable}:
        here = [one for one in usable if one.device == device]
        norms = torch.stack([_norm(one.grad) for one in here if one.grad is not None]).tolist()  # usable ones have one
        for one, norm in zip(here, norms, strict=True):
            ok = math.isfinite(norm)
            sizes[id(one)] = Gradient(norm / math.sqrt(max(1, one.numel())) if ok else None, ok)
    for one in parameters:
        if one.grad is not None and one.grad.is_sparse:
            del sizes[id(one)]
    if type(optimizer) is not torch.optim.SGD:
        return sizes, 0.0
    rates = {id(one): float(group["lr"]) for group in optimizer.param_groups for one in group["params"]}
    moved = sum((rates[id(one)] * (sizes[id(one)].size or 0.0)) ** 2 * one.numel() for one in usable)
    stays = sum(float(_norm(one)) ** 2 for one in usable)
    return sizes, math.sqrt(moved / stays) if stays > 0 else 0.0


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _replaceable(seen: Seen) -> list[Any]:
    from rekindle.pitfalls.parameters_not_in_optimizer import replaced  # noqa: PLC0415 - pitfalls are imported when looked for

    return list(replaced(seen))


def _call_of(seen: Seen) -> tuple[Call, ...]:
    """Return what is known of the cross entropy's arguments: the number of scores, from the last layer's weight."""
    shapes = {weight.name: weight.shape for weight in seen.weights}
    for loss in seen.losses:
        shape = shapes.get(f"{loss.last}.weight", ())
        if (
            loss.kind == "cross entropy"
            and len(loss.before) == 1
            and loss.before[0] in {"Addmm", "Mm"}
            and len(shape) == 2
        ):
            return (Call("cross_entropy", (), (), "int64", classes=shape[0]),)
    return ()


def _is_scheduled(run: Core, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a schedule of this optimizer is tracked, or something that may hold one: a class that nobody knows."""
    known = (nn.Module, torch.optim.Optimizer, torch.Tensor, torch.Generator, GradScaler, dict, random.Random)
    for value in run.tracked.objects.values():
        if isinstance(value, LRScheduler):
            if value.optimizer is optimizer:
                return True
        elif not isinstance(value, known) and not type(value).__module__.startswith(("numpy.", "rekindle.")):
            return True
    return any(isinstance(value, Mapping) and "last_epoch" in value for value in run.state.values())


def _locals_of(frame: FrameType) -> dict[str, Any]:
    """Return a frame's variables that could be losses or hold some."""
    held = frame.f_locals
    wanted = (torch.Tensor, list, dict)
    local = {name: value for name, value in list(held.items())[:_MOST_LOCALS] if isinstance(value, wanted)}
    owner = held.get("self")
    if owner is not None and not isinstance(owner, nn.Module):
        inside = getattr(owner, "__dict__", {})
        local |= {f"self.{name}": value for name, value in list(inside.items())[:100] if isinstance(value, wanted)}
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        held.clear()  # a copy that the frame would keep, and with it the tensors in it
    return local


def _holders(local: Mapping[str, Any]) -> Iterator[tuple[str, int, bool]]:
    """Yield name, number of losses with a graph, and whether it is a sum, of all that could hold them."""
    for name, value in local.items():
        if isinstance(value, torch.Tensor):
            if value.numel() == 1 and value.grad_fn is not None:
                yield name, added_up(value), True
        elif isinstance(value, list):
            yield name, _with_graph(value), False
        else:
            for key, inside in list(value.items())[:50]:
                if isinstance(inside, list):
                    yield f"{name}[{key!r}]", _with_graph(inside), False


def _with_graph(values: list[Any]) -> int:
    if not values or not isinstance(values[-1], torch.Tensor):
        return 0
    return sum(isinstance(one, torch.Tensor) and one.numel() == 1 and one.grad_fn is not None for one in values[-2000:])


def _first_tensor(batch: Any) -> torch.Tensor | None:
    if isinstance(batch, torch.Tensor):
        return batch
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else []
    return next((one for one in parts if isinstance(one, torch.Tensor)), None)


def _print_of(tensor: torch.Tensor) -> int:
    values = tensor.detach().flatten()[:_MOST_BYTES].cpu().contiguous()
    return hash((tuple(tensor.shape), values.view(torch.uint8).numpy().tobytes()))


def _repeats(reference: weakref.ref[Any]) -> bool:
    loader = reference()
    return loader is not None and bool(getattr(loader, "repeats_order", False))


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    exact = tensor.detach()
    norm: torch.Tensor = torch.linalg.vector_norm(exact if exact.is_complex() else exact.float())
    return norm
