"""What can be tracked, and the names of its parts."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence

import torch

from rekindle.keys import canonical_key
from rekindle.parallel.fsdp import is_sharded_module, show_parts
from rekindle.run.sharded import local_of

__all__ = [
    "canonical_keys",
    "class_name",
    "kind_of_tracked",
    "names_of_parameters",
    "non_persistent_buffers",
    "place_of",
]


def kind_of_tracked(value: object) -> str | None:
    """Return how a value is tracked (``module``, ``optimizer``, ``object``, ``dict``, ...), None when it cannot be.

    An object is anything with `state_dict` and `load_state_dict`: schedulers, scalers, a loader, a class of one's own.
    """
    if isinstance(value, torch.nn.Module):
        return "module"
    if isinstance(value, torch.optim.Optimizer):
        return "optimizer"
    if callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None)):
        return "object"
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, dict):
        return "dict"
    if isinstance(value, torch.Generator):
        return "torch.Generator"
    if isinstance(value, random.Random):
        return None if isinstance(value, random.SystemRandom) else "random.Random"
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.random.Generator):
            return "numpy.Generator"
        if isinstance(value, numpy.random.RandomState):
            return "numpy.RandomState"
    return None


def canonical_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return live key -> canonical key; the keys as they are where two of them would become one."""
    found = {key: canonical_key(key) for key in keys}
    return found if len(set(found.values())) == len(found) else {key: key for key in keys}


def class_name(value: object) -> str:
    """Return the dotted path of a value's class; of a sharded module, of the class that it had before."""
    kind = type(value)
    if is_sharded_module(value):
        kind = kind.__bases__[-1]
    return f"{kind.__module__}.{kind.__qualname__}"


def names_of_parameters(tracked: Mapping[str, object]) -> dict[int, list[str]]:
    """Return id of a parameter -> its full names (tracked name, dot, canonical key); the first is the one to save."""
    found: dict[int, list[str]] = {}
    for name, value in tracked.items():
        if isinstance(value, torch.nn.Module):
            show_parts(value)
            live = dict(value.named_parameters(remove_duplicate=False))
            for key, plain in canonical_keys(list(live)).items():
                found.setdefault(id(live[key]), []).append(f"{name}.{plain}")
        elif isinstance(value, torch.Tensor):
            found.setdefault(id(value), []).append(name)
        elif isinstance(value, dict):
            for key, child in value.items():
                if isinstance(child, torch.Tensor):
                    found.setdefault(id(child), []).append(f"{name}.{key}")
    return found


def non_persistent_buffers(module: torch.nn.Module) -> dict[str, tuple[torch.nn.Module, str, torch.Tensor]]:
    """Return name -> (owner, attribute, buffer) of the buffers that `state_dict` leaves out."""
    found = {}
    for prefix, owner in module.named_modules():
        for attribute in sorted(owner._non_persistent_buffers_set):  # noqa: SLF001 - torch has no public list of them
            buffer = owner._buffers.get(attribute)  # noqa: SLF001 - likewise
            if buffer is not None:
                found[f"{prefix}.{attribute}" if prefix else attribute] = (owner, attribute, buffer)
    return found


def place_of(tensor: torch.Tensor) -> tuple[object, ...]:
    """Return what two tensors have in common when they are one: memory, type, shape and stride."""
    local = local_of(tensor)
    return (local.device, local.data_ptr(), tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))
