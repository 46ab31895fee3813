"""`rk.check`: what can be known of a model, a loss and one batch, before any training.

The batch goes through the model three times: in the mode that it is in, with gradients asked for and not kept, and
in eval mode twice as far as needed to see what draws there. Law: nothing is left behind. Buffers are copies while it
lasts, gradients are returned and not stored, hooks and attributes are taken back, generators are put back; a training
with the check in it ends with the same bits as one without.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from rekindle.bare_model import bare_model
from rekindle.finding import Finding
from rekindle.pitfalls import find_pitfalls, pitfall_modules
from rekindle.pitfalls._graph import describe_loss
from rekindle.pitfalls._looking import (
    groups_of,
    held_by,
    layers_of,
    samples_of,
    state_elsewhere,
    weights_of,
)
from rekindle.pitfalls._places import users_line
from rekindle.pitfalls._seen import Call, Gradient, Input, Samples, Seen
from rekindle.render import finding_lines
from rekindle.run.randomness import preserved

__all__ = ["Checked", "check"]

_LOSSES = {
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
}
_ACTIVATIONS = {"softmax": "Softmax", "log_softmax": "LogSoftmax", "sigmoid": "Sigmoid"}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found; `str` of it is for people.

    Attributes:
        findings: code, severity, what, why, do, and the layer in ``where.key``; empty where all is well.
        looked_for: how many pitfalls were looked for.
        loss: the loss of the batch, None where none was computed.
    """

    findings: tuple[Finding, ...]
    looked_for: int
    loss: float | None

    def __str__(self) -> str:
        """Return the findings in three parts each, or one line that says there are none."""
        if not self.findings:
            at = "" if self.loss is None else f"; the loss of this batch is {self.loss:.4g}"
            return f"none of {self.looked_for} pitfalls found{at}"
        ranked = sorted(self.findings, key=lambda finding: finding.severity.rank)
        return "\n\n".join("\n".join(finding_lines(finding)) for finding in ranked)


def check(
    model: nn.Module,
    loss_fn: Callable[..., torch.Tensor] | None,
    batch: Any,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    dataset: Any = None,
    validation: Any = None,
) -> Checked:
    """Look for mistakes that raise no error, with one batch, and change nothing.

    Args:
        model: in the mode and on the device that it is trained in.
        loss_fn: called as ``loss_fn(model(*inputs), targets)``; None where the model returns the loss, or something
            that has it as ``.loss``.
        batch: ``(inputs, targets)``, or more inputs before the targets; one tensor, which is then its own target (an
            autoencoder); or a dict for ``model(**batch)``, which is then the target as well.
        optimizer: as it will be stepped.
        dataset: what is trained on, or the loader over it; no sample is fetched.
        validation: what is validated with, in the same way.

    Returns:
        The findings; `print` it.

    Raises:
        TypeError: `model` is no module, or `batch` none of these. What the model or the loss raises is a finding.

    Example:
        print(rk.check(model, loss_fn, next(iter(loader)), optimizer=optimizer))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"rk.check(model, ...): a torch.nn.Module, not {type(model).__name__}")
    inputs, named, target = _parts_of(batch)
    plain = bare_model(model)
    extra = [loss_fn] if isinstance(loss_fn, nn.Module) else []
    names = {id(parameter): name for name, parameter in plain.named_parameters()}
    held = None if optimizer is None else held_by([optimizer])
    seen = Seen(
        layers=layers_of(plain),
        weights=weights_of(plain, None if held is None else set(held)),
        samples=Samples() if dataset is None else samples_of(dataset, validation),
        batch_size=_size_of(inputs, named),
        is_training=False,
    )
    if optimizer is not None and held is not None:
        seen.groups = tuple(groups_of("optimizer", optimizer))
        # A loss with parameters of its own may share the optimizer.
        ours = {*names, *(id(one) for module in extra for one in module.parameters())}
        seen.strangers = tuple(tuple(one.shape) for key, one in held.items() if key not in ours)
        seen.elsewhere = state_elsewhere(optimizer, names)
    with _untouched([plain, *extra]):
        value = look_at_batch(seen, plain, loss_fn, inputs, named, target, names, optimizer)
    findings = find_pitfalls(seen)
    if any(finding.code in {"RK-PIT-05", "RK-PIT-06", "RK-PIT-21", "RK-PIT-29"} for finding in findings):
        # What was raised is what those have said.
        findings = [finding for finding in findings if finding.code != "RK-PIT-31"]
    return Checked(tuple(findings), len(pitfall_modules()), value)


def _parts_of(batch: Any) -> tuple[tuple[Any, ...], Mapping[str, Any], Any]:
    """Return positional inputs, named inputs, and the target."""
    if isinstance(batch, torch.Tensor):
        return (batch,), {}, batch
    if isinstance(batch, Mapping) and batch:
        return (), batch, batch
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return (batch[0],), {}, batch[0]
    if isinstance(batch, (tuple, list)) and batch:
        return tuple(batch[:-1]), {}, batch[-1]
    given = (
        f"an empty {type(batch).__name__}"
        if isinstance(batch, (tuple, list, Mapping))
        else f"{type(batch).__name__}: {batch!r}"
    )
    raise TypeError(
        "rk.check(model, loss_fn, batch) takes one batch as a loader gives it: (inputs, targets), a tensor or a dict, "
        f"not {given[:200]}; batch = next(iter(loader))"
    )


def _size_of(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> int | None:
    first = next((one for one in (*inputs, *named.values()) if isinstance(one, torch.Tensor) and one.dim()), None)
    return None if first is None else int(first.shape[0])


def look_at_batch(
    seen: Seen,
    model: nn.Module,
    loss_fn: Callable[..., torch.Tensor] | None,
    inputs: tuple[Any, ...],
    named: Mapping[str, Any],
    target: Any,
    names: Mapping[int, str],
    optimizer: torch.optim.Optimizer | None,
) -> float | None:
    """Fill in what passing the batch shows; return the loss."""
    listener = _Listener(model)
    loss: Any = None
    try:
        with torch.enable_grad(), listener, listener.hooked():
            result = model(*inputs, **named)
            listener.is_in_loss = True
            loss = _loss_of(result) if loss_fn is None else loss_fn(result, target)
    except Exception as error:  # noqa: BLE001 - whatever a user's model raises is what is reported
        seen.raised = _words_of(error)
    seen.calls, seen.inputs, seen.places = tuple(listener.calls), tuple(listener.inputs), listener.places
    if seen.raised is None:
        with contextlib.suppress(Exception):  # it may refuse to be evaluated; that is not what was asked
            seen.drew_in_eval = drawn_in_eval(model, inputs, named)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        if seen.raised is None:
            seen.raised = (
                f"the loss is {_kind_of(loss)}, not one number",
                "an update follows the gradient of a single number",
                "loss = loss.mean(), or pass loss_fn to rk.check",
            )
        return None
    value = float(loss.detach())
    described = describe_loss("loss", loss, names)
    seen.losses = () if described is None else (described,)
    if described is not None:
        _look_at_gradients(seen, model, loss, optimizer)
    elif any(weight.trained for weight in seen.weights):
        seen.never = tuple(weight.name for weight in seen.weights if weight.trained)
    return value


def _kind_of(loss: Any) -> str:
    return f"of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__


def _loss_of(result: Any) -> Any:
    inside = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    return result if inside is None else inside


def _look_at_gradients(
    seen: Seen, model: nn.Module, loss: torch.Tensor, optimizer: torch.optim.Optimizer | None
) -> None:
    trained = {weight.name for weight in seen.weights if weight.trained}
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    plain = [weight.name for weight in seen.weights if weight.trained]
    gradients = dict(zip(plain, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True), strict=True))
    seen.gradients = {name: gradient_of(one) for name, one in gradients.items()}
    silent = {name for name, one in seen.gradients.items() if not one.size and one.finite}
    # Weights that begin with 0 (the last norm of a residual block, an adapter) hide what is behind them for one update.
    begins_with_zero = any(
        not bool(one.any()) for name, one in parameters.items() if one.dim() > 1 or "bias" not in name
    )
    missing = {name for name, one in gradients.items() if one is None}
    seen.never = tuple(name for name in plain if name in trained and name in (missing if begins_with_zero else silent))
    seen.looks = 1
    if optimizer is not None and type(optimizer) is torch.optim.SGD:
        pairs = [(gradients[name], one) for name, one in zip(plain, parameters.values(), strict=True)]
        seen.updates = {"optimizer": step_ratio(optimizer, [(one, gradient) for gradient, one in pairs])}


def gradient_of(gradient: torch.Tensor | None) -> Gradient:
    """Return a gradient's size."""
    if gradient is None:
        return Gradient(None)
    values = gradient.detach()
    values = values.coalesce().values() if values.is_sparse else values
    size = float(torch.linalg.vector_norm(values.float())) / math.sqrt(max(1, gradient.numel()))
    return Gradient(size if math.isfinite(size) else None, math.isfinite(size))


def step_ratio(optimizer: torch.optim.Optimizer, pairs: list[tuple[torch.Tensor, torch.Tensor | None]]) -> float:
    """Return the size of a plain SGD step against that of the weights; 0 where it cannot be told."""
    rates = {id(one): float(group["lr"]) for group in optimizer.param_groups for one in group["params"]}
    moved = stays = 0.0
    for parameter, gradient in pairs:
        if gradient is None or gradient.is_sparse or id(parameter) not in rates:
            continue
        moved += (rates[id(parameter)] * float(torch.linalg.vector_norm(gradient.detach().float()))) ** 2
        stays += float(torch.linalg.vector_norm(parameter.detach().float())) ** 2
    return math.sqrt(moved / stays) if stays > 0 and math.isfinite(moved) else 0.0


def _words_of(error: Exception) -> tuple[str, str, str]:
    """Return what was raised, why, and what to do: from the known errors where one fits."""
    from rekindle.explain.hooks import explain_exception  # noqa: PLC0415 - only when something was raised

    said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}".rstrip(": ")
    causes = explain_exception(error).causes
    if not causes:
        return (
            f"the batch does not pass: {said}",
            "no known error fits",
            "run the model on this batch for the traceback",
        )
    cause = causes[0]
    return f"the batch does not pass: {cause.what} ({cause.code})", cause.why, cause.fix[0] if cause.fix else ""


def drawn_in_eval(model: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return where dropout works although the model is in eval mode."""
    model.eval()  # flags are put back by `_untouched`
    listener = _Listener(model)
    with torch.no_grad(), listener, listener.hooked():
        model(*inputs, **named)
    return tuple(listener.dropped)


class _Listener(TorchFunctionMode):
    """Hears which functions of torch are called, in which layer, and from which of the user's lines.

    Args:
        model: whose layers are known by name.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._inside: list[str] = []
        self._is_busy = False
        self.is_in_loss = False
        self.calls: list[Call] = []
        self.inputs: list[Input] = []
        self.places: dict[str, str] = {}
        self.dropped: list[tuple[str, str]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._is_busy:
            self._is_busy = True
            try:
                with contextlib.suppress(Exception):  # what cannot be described is not described
                    self._hear(getattr(func, "__name__", ""), args, kwargs)
            finally:
                self._is_busy = False
        return func(*args, **kwargs)

    def _hear(self, name: str, args: Any, kwargs: Any) -> None:
        if name in _LOSSES:
            call = _described(name, *args[:2], **kwargs)
            if call is not None:
                self.calls.append(call)
        elif self.is_in_loss and name in {"sub", "rsub", "__sub__", "__rsub__"} and len(args) == 2:
            if all(isinstance(one, torch.Tensor) for one in args):
                shapes = [tuple(one.shape) for one in args]
                self.calls.append(Call("sub", shapes[0], shapes[1], _dtype(args[1]), place=users_line()))
        elif name in _ACTIVATIONS:
            self.places[_ACTIVATIONS[name]] = users_line()
        elif name in _DROPOUTS:
            p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            training = kwargs.get("training", args[2] if len(args) > 2 else name != "alpha_dropout")
            if p and training and not self._model.training:
                self.dropped.append((self._inside[-1] if self._inside else "", users_line()))

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Follow which layer is running, by hooks that are gone afterwards."""
        handles = []
        for name, module in self._model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name, module), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module) -> Callable[..., None]:
        has_weights = next(module.parameters(recurse=False), None) is not None
        kind = type(module).__name__

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._inside.append(name)
            if has_weights and not self.inputs:
                value = next((one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)), None)
                if value is not None:
                    self._is_busy = True
                    try:
                        self.inputs.append(_input(name, kind, value))
                    finally:
                        self._is_busy = False

        return enter

    def _leave(self, *_: object) -> None:
        if self._inside:
            self._inside.pop()


def _input(name: str, kind: str, value: torch.Tensor) -> Input:
    low = high = mean = spread = 0.0
    values = value.detach()
    if values.numel() and not values.is_complex():
        values = values.double() if not values.is_floating_point() else values.float()
        low, high = float(values.min()), float(values.max())
        mean, spread = float(values.mean()), float(values.std(correction=0))
    return Input(name, kind, tuple(value.shape), _dtype(value), low, high, mean, spread)


def _described(name: str, scores: Any = None, target: Any = None, **settings: Any) -> Call | None:
    scores, target = settings.get("input", scores), settings.get("target", target)
    if not isinstance(scores, torch.Tensor) or not isinstance(target, torch.Tensor):
        return None
    ignored = int(settings.get("ignore_index", -100))
    of_classes = name in {"cross_entropy", "nll_loss"}
    values = target.detach()
    if of_classes and not values.is_floating_point():
        values = values[values != ignored]
    low, high = (float(values.min()), float(values.max())) if values.numel() else (None, None)
    is_numbers = of_classes and tuple(target.shape) != tuple(scores.shape)
    return Call(
        name,
        tuple(scores.shape),
        tuple(target.shape),
        _dtype(target),
        low,
        high,
        int(scores.shape[1 if scores.dim() > 1 else 0]) if is_numbers and scores.dim() else None,
        ignored,
        users_line(),
    )


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


@contextlib.contextmanager
def _untouched(models: list[nn.Module]) -> Iterator[None]:
    """Have models work on copies of their buffers, and leave them and all generators as they were found."""
    modules = list({id(module): module for model in models for module in model.modules()}.values())
    copies: dict[int, torch.Tensor] = {}
    kept: list[tuple[nn.Module, dict[str, Any], dict[str, Any], dict[str, Any]]] = []
    grads = {id(one): (one, one.grad) for model in models for one in model.parameters()}
    for module in modules:
        buffers, parameters = dict(module._buffers), dict(module._parameters)  # noqa: SLF001 - put back as found
        kept.append((module, dict(vars(module)), buffers, parameters))
    devices = sorted({one.device.index or 0 for model in models for one in model.parameters() if one.is_cuda})
    with preserved(), torch.random.fork_rng(devices, enabled=bool(devices)):
        try:
            for module, _, buffers, _ in kept:
                for name, buffer in buffers.items():
                    if buffer is not None:
                        module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())  # noqa: SLF001 - as above
            yield
        finally:
            for module, attributes, buffers, parameters in kept:
                vars(module).clear()
                vars(module).update(attributes)
                for table, before in ((module._buffers, buffers), (module._parameters, parameters)):  # noqa: SLF001 - as above
                    table.clear()
                    table.update(before)  # type: ignore[arg-type] # of the same kind as it held
            for parameter, grad in grads.values():
                parameter.grad = grad
