"""Bringing tensors, modules and nested batches to a device; what is no tensor stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from rekindle.devices.pick import parse_device
from rekindle.errors import ConfigError

__all__ = ["device_named", "to_device"]


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

    Dicts, lists, tuples (named ones too) and dataclasses are gone through, and keep their types; modules (losses with
    parameters too) are moved in place; an object with a method ``to`` of its own is asked to go; anything else is
    returned as it is. Where nothing has to be moved, the very same object comes back.

    Args:
        value: what a loader yields, for instance.
        device: where to; a name as `Run` takes it, such as ``"auto"`` or ``"cuda:1"``.
        non_blocking: copy while computing goes on; right for pinned memory.

    Raises:
        ConfigError: no device is called so, or it is not here.

    Example:
        batch = rk.to_device({"image": images, "names": ["cat", "dog"]}, "auto")
    """
    if isinstance(device, str):
        device = device_named(device)
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, torch.nn.Module):
        return value.to(device)
    if isinstance(value, PackedSequence):
        return value.to(device)  # type: ignore[arg-type] # declared for a dtype only; takes a device as tensors do
    if not isinstance(value, (dict, list, tuple, type)) and callable(getattr(value, "to", None)):
        return _by_its_own_way(value, device)
    if isinstance(value, Mapping):
        moved = {key: to_device(part, device, non_blocking=non_blocking) for key, part in value.items()}
        if all(moved[key] is part for key, part in value.items()):
            return value
        return moved if type(value) is dict else _like_mapping(value, moved)
    if isinstance(value, (list, tuple)):
        parts = [to_device(part, device, non_blocking=non_blocking) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        if type(value) in (list, tuple):
            return type(value)(parts)
        make = getattr(type(value), "_make", type(value))
        return make(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        moved = {name: to_device(part, device, non_blocking=non_blocking) for name, part in fields.items()}
        if all(moved[name] is part for name, part in fields.items()):
            return value
        return dataclasses.replace(value, **moved)
    return value


def _by_its_own_way(value: Any, device: torch.device) -> Any:
    """Ask an object to go to a device; one whose ``to`` means something else (a unit, a format) stays as it is."""
    try:
        moved = value.to(device)
    except (TypeError, ValueError, AttributeError, KeyError):
        return value
    return value if moved is None else moved


def _like_mapping(value: Mapping[Any, Any], moved: dict[Any, Any]) -> Any:
    copy = getattr(value, "copy", None)
    if copy is None:
        return type(value)(moved)  # type: ignore[call-arg] # mappings are made of mappings by convention
    new = copy()
    new.update(moved)
    return new
