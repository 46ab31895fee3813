"""The numbers of a summary: one pass through a model with tensors that hold no values.

torch's fake tensors have shapes, strides, dtypes and devices and no memory. The model's own parameters are put aside
for the pass (`torch.func.functional_call`) and fake ones take their places, so a model of any size can be measured,
also one on the meta device. For honest counts three shortcuts of torch are off during the pass, because the counter
sees operations and not what is inside one: the fused attention of `nn.MultiheadAttention` in eval mode, the fused
kernels of scaled dot products, and oneDNN's recurrent layers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from rekindle.bare_model import bare_model
from rekindle.errors import ConfigError
from rekindle.keys import canonical_key
from rekindle.view.passes import arguments_of, hooked, in_eval, mapped, place_of, untouched
from rekindle.view.summary import Layer

__all__ = ["measure"]


@dataclass(slots=True)
class _Seen:
    """What a pass saw of one module."""

    outputs: tuple[tuple[int, ...], ...] = ()
    calls: int = 0
    flops: int = 0
    activation_bytes: int = 0


@dataclass(slots=True)
class _Pass:
    """A pass under way: `open` holds, for each module being called, the count at its start and that of its parts."""

    counter: Any
    seen: dict[int, _Seen] = field(default_factory=dict)
    open: list[list[int]] = field(default_factory=list)
    storages: set[int] = field(default_factory=set)
    kept: list[torch.Tensor] = field(default_factory=list)  # alive, so that a storage's address is not given again

    def enter(self, _: str, __: nn.Module) -> None:
        self.open.append([self.counter.get_total_flops(), 0])

    def leave(self, _: str, module: nn.Module, output: Any) -> None:
        start, below = self.open.pop()
        whole = self.counter.get_total_flops() - start
        if self.open:
            self.open[-1][1] += whole
        seen = self.seen.setdefault(id(module), _Seen())
        tensors = _tensors(output)
        seen.calls += 1
        seen.flops += whole - below
        seen.outputs = tuple(tuple(tensor.shape) for tensor in tensors)
        for tensor in tensors:
            if tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            address = storage._cdata  # noqa: SLF001 - a storage without memory has no other identity
            if address not in self.storages:
                self.storages.add(address)
                self.kept.append(tensor)
                seen.activation_bytes += storage.nbytes()


def measure(model: nn.Module, inputs: Any) -> tuple[list[Layer], str, int, list[str]]:
    """Return the layers of a model, the inputs in words, their bytes, and notes.

    Args:
        model: also wrapped; unchanged afterwards.
        inputs: as of `rk.summary`; None for no pass.

    Raises:
        ConfigError: the model does not take the inputs, or has layers without sizes.
    """
    whole, model = model, bare_model(model)
    notes: list[str] = []
    lazy = [canonical_key(key) for key, value in model.named_parameters() if _is_lazy(value)]
    if inputs is None:
        if lazy:
            notes.append(f"{len(lazy)} parameters have no size before the first call, and count as none: {lazy[0]}")
        return _layers(model, None), "", 0, notes
    if lazy:
        raise ConfigError(
            f"the layer of {lazy[0]!r} has no sizes yet",
            why="lazy layers take them from the first input",
            do="call the model once with a real input",
        )
    device, dtype = place_of(model)
    seen, words, size = _passed(model, inputs, device, dtype, notes)
    if whole is not model:
        notes.append(f"the wrapper {type(whole).__name__} was taken off")
    return _layers(model, seen), words, size, notes


def _passed(
    model: nn.Module, inputs: Any, device: torch.device, dtype: torch.dtype, notes: list[str]
) -> tuple[dict[int, _Seen], str, int]:
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415 - a third of a second
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - the same

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:  # zeros of a large shape take no memory either
        arguments = arguments_of(model, inputs, device, dtype)
    tensors = _tensors(arguments)
    words, size = _words(arguments), sum(tensor.nbytes for tensor in tensors)
    state = dict([*model.named_parameters(), *model.named_buffers()])
    known: dict[int, torch.Tensor] = {}

    def faked(tensor: torch.Tensor) -> torch.Tensor:
        # A tied parameter has one fake, so that the tie holds in the pass too.
        if id(tensor) not in known:
            known[id(tensor)] = tensor if hasattr(tensor, "fake_mode") else fake.from_tensor(tensor)
        return known[id(tensor)]

    made = _Pass(FlopCounterMode(display=False))
    try:
        with _measured(model, made), fake, made.counter:
            replaced = {key: faked(value) for key, value in state.items()}
            args, kwargs = mapped(arguments, faked)
            torch.func.functional_call(model, replaced, args, kwargs)
    except Exception as error:
        if device.type == "meta":
            raise _refused(model, words, error) from error
        made = _really(model, inputs, device, dtype, words)
        notes.append(f"measured by a real pass: without values, {_first_line(error)}")
    return made.seen, words, size


def _really(model: nn.Module, inputs: Any, device: torch.device, dtype: torch.dtype, words: str) -> _Pass:
    """Pass real values through the model as it is."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - a third of a second

    made = _Pass(FlopCounterMode(display=False))
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    args, kwargs = arguments_of(model, inputs, device, dtype)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), _measured(model, made), made.counter:
            torch.func.functional_call(model, buffers, args, kwargs)
    except Exception as error:
        raise _refused(model, words, error) from error
    return made


@contextmanager
def _measured(model: nn.Module, made: _Pass) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415 - only for a pass

    modules = dict(model.named_modules())
    # It logs a traceback for each input that does not fit, which is an answer here and no event.
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    fast = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings(), untouched(model), in_eval(model), hooked(modules, made.leave, made.enter):
        warnings.simplefilter("ignore")  # oneDNN's switch speaks of GPUs that are not there
        torch.backends.mha.set_fastpath_enabled(False)
        log.setLevel(logging.CRITICAL)
        try:
            with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            log.setLevel(level)
            torch.backends.mha.set_fastpath_enabled(fast)


def _layers(model: nn.Module, seen: dict[int, _Seen] | None) -> list[Layer]:
    first: dict[int, str] = {}
    counted: set[int] = set()
    layers = []
    for path, module in model.named_modules(remove_duplicate=False):
        name = canonical_key(f"{path}.x")[:-2]
        kind = type(module).__name__
        if id(module) in first:
            layers.append(Layer(name, kind, same_as=first[id(module)]))
            continue
        first[id(module)] = name
        parameters = _own(module.parameters(recurse=False), counted)
        buffers = _own(module.buffers(recurse=False), counted)
        found = None if seen is None else seen.get(id(module), _Seen())
        layers.append(
            Layer(
                name,
                kind,
                any(True for _ in module.children()),
                found.outputs if found else (),
                sum(value.numel() for value in parameters),
                sum(value.numel() for value in parameters if value.requires_grad),
                sum(value.numel() for value in buffers),
                sum(value.nbytes for value in (*parameters, *buffers)),
                found.flops if found else None,
                found.activation_bytes if found else None,
                found.calls if found else 0,
                weight=_weight_shape(module),
            )
        )
    return layers


def _own(tensors: Iterator[torch.Tensor], counted: set[int]) -> list[torch.Tensor]:
    own = [tensor for tensor in tensors if id(tensor) not in counted and not _is_lazy(tensor)]
    counted.update(map(id, own))
    return own


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    return () if weight is None or _is_lazy(weight) else tuple(weight.shape)


def _is_lazy(value: torch.Tensor) -> bool:
    return isinstance(value, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))


def _tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    mapped(value, found.append)
    return found


def _words(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> str:
    def of(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            dtype = "" if value.dtype == torch.float32 else f" {str(value.dtype).removeprefix('torch.')}"
            return f"{list(value.shape)}{dtype}"
        if isinstance(value, dict):
            return ", ".join(f"{key} {of(part)}" for key, part in value.items())
        if isinstance(value, (list, tuple)):
            return ", ".join(of(part) for part in value)
        return repr(value)

    args, kwargs = arguments
    return ", ".join(part for part in (of(args), of(kwargs)) if part)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _refused(model: nn.Module, words: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{type(model).__name__} does not take the input {words}",
        why=f"{type(error).__name__}: {_first_line(error)}",
        do="give an input of the shapes and dtypes that it was written for",
    )
