"""Passes through a model that leave no trace: mode, attributes and generators are as before when they end.

Shapes: whatever the model takes. An *input* is described by a tensor, a shape (a tuple of ints), or a text such as
``"1,3,224,224"`` or ``"1,128:int64"``; several stand in a list or tuple, named ones in a dict.

Law: also when the model raises, each module is in the mode it was in, no hook is left, and no attribute that the
forward pass wrote stays behind.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn

from rekindle.errors import ConfigError

__all__ = ["Arguments", "arguments_of", "hooked", "in_eval", "mapped", "place_of", "untouched"]

Arguments: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Hold every module in eval mode, and put each back into the mode it was in.

    The flag is set, not `train()` called: a frozen norm stays one, and no module is told of a change that is undone.
    """
    before = [(module, module.training) for module in model.modules()]
    for module, _ in before:
        module.training = False
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Undo what a pass writes into the attributes of modules, such as a cache or a counter; tensors are not copied."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module],
    after: Callable[[str, nn.Module, Any], Any],
    before: Callable[[str, nn.Module], None] | None = None,
) -> Iterator[None]:
    """Have `after(name, module, output)` called after each module's forward, and `before(name, module)` before it.

    What `after` returns, if it is not None, takes the place of the output.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            if before is not None:
                first = module.register_forward_pre_hook(_before(before, name), prepend=True)
                stack.callback(first.remove)
            last = module.register_forward_hook(_after(after, name))
            stack.callback(last.remove)
        yield


def _before(call: Callable[[str, nn.Module], None], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, _: Any) -> None:
        call(name, module)

    return hook


def _after(call: Callable[[str, nn.Module, Any], Any], name: str) -> Callable[..., Any]:
    def hook(module: nn.Module, _: Any, output: Any) -> Any:
        return call(name, module, output)

    return hook


def place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the floating-point dtype of a model's first parameter or buffer."""
    device, dtype = torch.device("cpu"), torch.get_default_dtype()
    tensors = [*model.parameters(), *model.buffers()]
    if tensors:
        device = tensors[0].device
    for tensor in tensors:
        if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
            return device, tensor.dtype
    return device, dtype


def arguments_of(model: nn.Module, inputs: Any, device: torch.device, dtype: torch.dtype) -> Arguments:
    """Return the arguments that `inputs` describes, for ``model(*args, **kwargs)``; shapes become zeros.

    Args:
        model: its `forward` is asked whether it takes the names of a dict, or the dict itself as one argument.
        inputs: as in the module's first lines.
        device: of the zeros; tensors are used where they are.
        dtype: of the zeros where the description names none.

    Raises:
        ConfigError: a description that cannot be read.
    """
    if isinstance(inputs, Mapping):
        made = {str(name): _made(part, device, dtype) for name, part in inputs.items()}
        return ((), made) if _takes_names(model, made) else ((made,), {})
    if isinstance(inputs, (list, tuple)) and not _is_shape(inputs):
        return tuple(_made(part, device, dtype) for part in inputs), {}
    return (_made(inputs, device, dtype),), {}


def mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Return nested dicts, lists and tuples with each tensor replaced by what `change` returns for it."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(part, change) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(size) is int for size in value)


def _takes_names(model: nn.Module, names: Mapping[str, Any]) -> bool:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return True
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return True
    known = {p.name for p in parameters if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}}
    return set(names) <= known


def _made(part: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(part, str):
        part, _, name = part.partition(":")
        shape, dtype = _shape_in(part), _dtype_named(name, dtype)
        return torch.zeros(shape, dtype=dtype, device=device)
    if _is_shape(part):
        if any(size < 0 for size in part):
            raise ConfigError(f"the input {tuple(part)} has a negative size", do="write a whole shape: 1,3,224,224")
        return torch.zeros(tuple(part), dtype=dtype, device=device)
    if isinstance(part, Mapping):
        return {key: _made(inner, device, dtype) for key, inner in part.items()}
    if isinstance(part, (list, tuple)):
        return type(part)(_made(inner, device, dtype) for inner in part)
    return part


def _shape_in(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"(\d+([,x]\d+)*)?,?", text):
        raise ConfigError(
            f"{text!r} is not the shape of an input", do="write sizes with commas, and the dtype behind: 1,128:int64"
        )
    return tuple(int(size) for size in re.findall(r"\d+", text))


def _dtype_named(name: str, default: torch.dtype) -> torch.dtype:
    if not name:
        return default
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"{name!r} is no dtype of torch", do="such as float32, bfloat16 or int64")
    return found
