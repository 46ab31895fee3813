"""Frozen parts of a model: parameters without gradients, and norms that keep their statistics.

`requires_grad = False` is only half of it. The running mean and variance of a BatchNorm move in every forward pass in
training mode, frozen or not, and `model.train()` at the start of an epoch puts every layer back into that mode. So a
frozen norm gets a mark in its own `__dict__` and a `train` of its own that stays in eval while the mark is up; both
travel with `copy.deepcopy` and `torch.save`, and hold under DDP and `torch.compile`, which wrap the model around it.
Dropout of frozen parts stays as it is: it changes nothing that is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from rekindle.errors import ConfigError
from rekindle.keys import canonical_key
from rekindle.parallel.ddp import require_averaged
from rekindle.tune.named import NORMS, keys_until, modules_by_key, picked_keys

__all__ = ["Frozen", "Thaw", "describe_frozen", "freeze", "unfreeze"]

_MARK = "_rekindle_keeps_statistics"


@dataclass(frozen=True, slots=True)
class Frozen:
    """What of a model is frozen; `str` of it is a table.

    Attributes:
        frozen: key -> number of values, of the frozen parameters.
        trained: key -> number of values, of the others.
        norms: names of the norms that stay in eval mode.
    """

    frozen: Mapping[str, int]
    trained: Mapping[str, int]
    norms: tuple[str, ...]

    def __str__(self) -> str:
        """Return the table: what is frozen by part of the model, and what is trained."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        whole = sum(self.frozen.values()) + sum(self.trained.values())
        yield (
            f"{len(self.frozen):,} of {len(self.frozen) + len(self.trained):,} parameters frozen "
            f"({sum(self.frozen.values()):,} of {whole:,} values)"
        )
        parts = dict.fromkeys(key.partition(".")[0] for key in (*self.frozen, *self.trained))
        width = max((len(part) for part in parts), default=0)
        for part in parts:
            still = sum(count for key, count in self.frozen.items() if key.partition(".")[0] == part)
            moving = sum(count for key, count in self.trained.items() if key.partition(".")[0] == part)
            words = "frozen" if not moving else "trained" if not still else f"{still:,} frozen, {moving:,} trained"
            yield f"  {part:<{width}}  {words}" + ("" if still and moving else f"  ({still + moving:,} values)")
        if self.norms:
            shown = ", ".join(self.norms[:3]) + (", ..." if len(self.norms) > 3 else "")
            yield f"  {len(self.norms)} norms keep their running statistics: {shown}"


def freeze(
    model: nn.Module,
    *,
    until: str | None = None,
    patterns: str | Sequence[str] = (),
    but: str | Sequence[str] = (),
) -> Frozen:
    """Freeze parameters, and the statistics of norms that have no trained parameter left.

    Args:
        model: changed in place; may be wrapped.
        until: freeze everything registered before this layer, and the layer itself: ``"layer2"``.
        patterns: freeze what these fit: whole keys with ``*``, or names of modules for all in them.
        but: leave out what these fit. With neither `until` nor `patterns`, everything but this is frozen.

    Returns:
        What is frozen now, all in all.

    Raises:
        ConfigError: a name or pattern fits nothing; the nearest names are given. Nothing was changed.

    Example:
        print(rk.freeze(model, but="fc"))
    """
    keys = _chosen(model, until, patterns, but)
    _set(model, keys, trained=False)
    return describe_frozen(model)


def unfreeze(
    model: nn.Module,
    *,
    until: str | None = None,
    patterns: str | Sequence[str] = (),
    but: str | Sequence[str] = (),
) -> Frozen:
    """Train parameters again, and let the norms among them move; arguments as of `freeze`.

    An optimizer goes on with those it was given; one built from ``filter(requires_grad)`` does not know the thawed
    ones, so give it all parameters from the start.

    Raises:
        ConfigError: as `freeze`; or `DistributedDataParallel` was made around the model while they were frozen, so each
            process would train its own. Nothing was changed.
    """
    keys = _chosen(model, until, patterns, but)
    _require_averaged(model, keys)
    _set(model, keys, trained=True)
    return describe_frozen(model)


def describe_frozen(model: nn.Module) -> Frozen:
    """Return what is frozen: `print` it for a table."""
    frozen: dict[str, int] = {}
    trained: dict[str, int] = {}
    for key, parameter in model.named_parameters():
        (trained if parameter.requires_grad else frozen)[canonical_key(key)] = parameter.numel()
    norms = tuple(name for name, module in modules_by_key(model).items() if vars(module).get(_MARK))
    return Frozen(frozen, trained, norms)


class Thaw:
    """A schedule of thawing: from an epoch on, parts are trained that were frozen before.

    What is trained is a function of the epoch alone, so a resumed run needs no state of it: call it at the start of
    every epoch. `DistributedDataParallel` averages the gradients of those parameters alone that were trained when it
    was made: wrap first, with ``find_unused_parameters=True``, and freeze then; otherwise this is refused.

    Args:
        model: with all parts frozen that the plan thaws.
        plan: epoch -> patterns (as of `unfreeze`) trained from that epoch on.

    Raises:
        ConfigError: a pattern fits nothing, or an epoch is no number of at least 0; or the model was wrapped while
            what the plan thaws was frozen, which is found here or at the first call.

    Example:
        thaw = rk.Thaw(model, {2: "layer4", 4: ["layer3", "layer2"]})
        for epoch in run.epochs(10):
            thaw(epoch)
    """

    def __init__(self, model: nn.Module, plan: Mapping[int, str | Sequence[str]]) -> None:
        """Check the plan; nothing is thawed yet."""
        self._model = model
        self._plan: list[tuple[int, list[str]]] = []
        for epoch, patterns in sorted(plan.items()):
            if not isinstance(epoch, int) or epoch < 0:
                raise ConfigError(f"Thaw: {epoch!r} is not an epoch, counted from 0")
            self._plan.append((epoch, picked_keys(model, patterns)))
        self._require_averaged()

    def _require_averaged(self) -> None:
        """Refuse a plan that would fail epochs later."""
        _require_averaged(self._model, {key for _, keys in self._plan for key in keys})

    def __call__(self, epoch: int) -> None:
        """Have everything trained that the plan thaws up to this epoch, and everything frozen that it thaws later."""
        self._require_averaged()
        due = {key for start, keys in self._plan if start <= epoch for key in keys}
        later = {key for start, keys in self._plan if start > epoch for key in keys} - due
        _set(self._model, later, trained=False)
        _set(self._model, due, trained=True)


def _chosen(model: nn.Module, until: str | None, patterns: str | Sequence[str], but: str | Sequence[str]) -> set[str]:
    keys = set(keys_until(model, until)) if until is not None else set()
    if patterns:
        keys |= set(picked_keys(model, patterns))
    if until is None and not patterns:
        keys = {canonical_key(key) for key, _ in model.named_parameters()}
    if but:
        keys -= set(picked_keys(model, but))
    return keys


def _require_averaged(model: nn.Module, keys: set[str]) -> None:
    """Refuse to train what the processes of a run would train apart."""
    require_averaged(parameter for key, parameter in model.named_parameters() if canonical_key(key) in keys)


def _set(model: nn.Module, keys: set[str], *, trained: bool) -> None:
    for key, parameter in model.named_parameters():
        if canonical_key(key) in keys:
            parameter.requires_grad_(trained)
            if not trained:
                parameter.grad = None  # one from before would still be applied
    for name, module in modules_by_key(model).items():
        if not isinstance(module, NORMS) or not _has_statistics(module):
            continue
        parameters = list(module.parameters(recurse=False))
        # A norm without parameters goes with the part of the model that it stands in.
        around = name.rpartition(".")[0]
        still = (
            not any(parameter.requires_grad for parameter in parameters)
            if parameters
            else not any(
                parameter.requires_grad
                for key, parameter in model.named_parameters()
                if canonical_key(key).startswith(f"{around}." if around else "")
            )
        )
        _keep_statistics(module, still)


def _has_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None


def _keep_statistics(module: nn.Module, still: bool) -> None:
    """Put a norm into eval mode for as long as it is frozen, whatever `train()` says."""
    marked = bool(vars(module).get(_MARK))
    if still == marked:
        return
    if still:
        # In the instance's dict `train` goes before the class's; a partial of a function at module level can be
        # copied and pickled, and a copy of the model gets a copy that names the copied norm.
        vars(module)[_MARK] = True
        vars(module)["train"] = functools.partial(_stay_in_eval, module)
        module.training = False
    else:
        del vars(module)[_MARK]
        del vars(module)["train"]
        module.training = True


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001 - the signature of Module.train
    """Stand in for `train` of a frozen norm."""
    for part in module.modules():
        part.training = False
    return module
