"""Bringing tensors, modules and nested batches to a device; what is no tensor stays as it is."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from rekindle.devices.pick import parse_device
from rekindle.errors import ConfigError

__all__ = ["device_named", "mapped", "to_device"]


def device_named(name: str | torch.device | None = "auto") -> torch.device:
    """Return the device that a name means on this machine.

    Args:
        name: ``auto`` or None for a GPU where there is one and the CPU elsewhere; ``cpu``, ``cuda``, ``cuda:1``,
        ``mps``.

    Raises:
        ConfigError: no such name, or no such device here.
    """
    if isinstance(name, torch.device):
        return name
    kind, number = parse_device(name or "auto")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(kind)
    if count is None:
        count = torch.xpu.device_count() if hasattr(torch, "xpu") else 0
    if (number or 0) >= count:
        here = f"{count} of that kind are here" if count else "none of that kind is here"
        why = f"{here}; this torch {torch.__version__} was built " + (
            f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        )
        raise ConfigError(f"there is no device {name}", why=why, do='Run(..., device="auto"), or device="cpu"')
    # "cpu:0" and "cpu" are one device that torch does not call equal.
    return torch.device(kind) if kind == "cpu" or number is None else torch.device(kind, number)


def to_device(value: Any, device: torch.device | str, *, non_blocking: bool = False) -> Any:
    """Return `value` with every tensor in it on `device`.

    Dicts, lists, tuples (named ones too), deques and dataclasses are gone through, and keep their types; modules
    (losses with parameters too) are moved in place; an object with a method ``to`` of its own is asked to go; anything
    else is returned as it is. Where nothing has to be moved, the very same object comes back.

    Args:
        value: what a loader yields, for instance.
        device: where to; a name as `Run` takes it, such as ``"auto"`` or ``"cuda:1"``.
        non_blocking: copy while computing goes on; right for pinned memory.

    Raises:
        ConfigError: no device is called so, or it is not here.

    Example:
        batch = rk.to_device({"image": images, "names": ["cat", "dog"]}, "auto")
    """
    where = device_named(device) if isinstance(device, str) else device

    def moved(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return part.to(where, non_blocking=non_blocking)
        if isinstance(part, torch.nn.Module):
            return part.to(where)
        if isinstance(part, PackedSequence):
            return part.to(where)  # type: ignore[arg-type] # declared for a dtype only; takes a device as tensors do
        if not isinstance(part, (dict, list, tuple, type)) and callable(getattr(part, "to", None)):
            return _by_its_own_way(part, where)
        return NotImplemented

    return mapped(value, moved)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a nested batch with every part replaced by what `change` makes of it.

    Dicts and other mappings, lists, tuples (named ones too), deques and dataclasses are gone through and keep their
    types. A dataclass or a mapping of a class of its own is copied, not made anew: what prepares its fields when it is
    made does not prepare them twice. Where nothing is changed, the very same object comes back.

    Args:
        value: what to go through.
        change: a part -> what stands in its place; NotImplemented for what is to be gone through, or stays.
    """
    made = change(value)
    if made is not NotImplemented:
        return made
    if isinstance(value, Mapping):
        parts = {key: mapped(part, change) for key, part in value.items()}
        if all(parts[key] is part for key, part in value.items()):
            return value
        return parts if type(value) is dict else _like_mapping(value, parts)
    if isinstance(value, (list, tuple, deque)):
        ordered = [mapped(part, change) for part in value]
        if all(new is old for new, old in zip(ordered, value, strict=True)):
            return value
        return _like_sequence(value, ordered)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        before = {name: getattr(value, name) for name in names if hasattr(value, name)}
        fields = {name: mapped(part, change) for name, part in before.items()}
        if all(fields[name] is part for name, part in before.items()):
            return value
        twin = copy.copy(value)
        for name, part in fields.items():
            if part is not before[name]:
                object.__setattr__(twin, name, part)  # frozen ones too
        return twin
    return value


def _by_its_own_way(value: Any, device: torch.device) -> Any:
    """Ask an object to go to a device; one whose ``to`` means something else (a unit, a format) stays as it is."""
    try:
        moved = value.to(device)
    except (TypeError, ValueError, AttributeError, KeyError):
        return value
    return value if moved is None else moved


def _like_sequence(value: Any, parts: list[Any]) -> Any:
    if isinstance(value, deque):
        return type(value)(parts, value.maxlen)
    return getattr(type(value), "_make", type(value))(parts)


def _like_mapping(value: Mapping[Any, Any], parts: dict[Any, Any]) -> Any:
    try:
        twin: Any = copy.copy(value)  # with all that a class of its own keeps beside the keys
        for key, part in parts.items():
            twin[key] = part
    except (TypeError, AttributeError):  # one that does not change, such as a MappingProxyType
        return type(value)(parts)  # type: ignore[call-arg] # mappings are made of mappings by convention
    return twin
