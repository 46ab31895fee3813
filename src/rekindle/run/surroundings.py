"""What lies around a step in the user's program: the names whose values a snapshot does not hold.

When a resumed run ends with other bits although everything tracked was equal, the cause is a value somewhere else: a
global counter, an average in a local variable, an attribute of a data set, a schedule that nobody tracked. `scan`
looks at the locals of the functions that are running, the globals of the user's own modules, and what hangs on their
objects, and gives each small value as a line of text under a name that its author would know (``COUNTER in train.py``).

Law: only `vars()` and `isinstance` touch the user's objects, never their code; what belongs to Python, torch or
another installed package is not entered; the number of names and levels is bounded.
"""

from __future__ import annotations

import itertools
import os
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import FrameType, FunctionType, ModuleType
from typing import Any

from rekindle.run.digests import crc_of_tensor, is_generator, mark, text_of

__all__ = ["caller_frame", "scan"]

_NAMES = 600
_LEVELS = 4
_ITEMS = 32
_FRAMES = 12
_TENSOR_BYTES = 64 * 1024**2
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_INSTALLED = tuple(
    os.path.abspath(path) + os.sep
    for kind in ("stdlib", "platstdlib", "purelib", "platlib")
    for path in {sysconfig.get_paths()[kind]}
)


def caller_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame, from this one outwards, that is neither ours in `run/` nor torch's."""
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith((_HERE, "<frozen")) and not _is_installed(path):
            return frame
        frame = frame.f_back
    return None


def scan(frame: FrameType | None, tracked: Mapping[str, object]) -> dict[str, str]:
    """Return what lies around a step: ``name in place`` -> text.

    Args:
        frame: where the step was called; its callers are looked at too, and None looks at globals only.
        tracked: what the snapshot holds; left out, but for plain attributes that no state dict contains.
    """
    view = _View(tracked)
    modules: dict[str, Mapping[str, object]] = {}
    for at in _user_frames(frame):
        place = os.path.basename(at.f_code.co_filename)
        if at.f_locals is not at.f_globals:
            view.add(at.f_locals, f"{at.f_code.co_name}() of {place}")
        modules.setdefault(at.f_globals.get("__name__", place), at.f_globals)
    for name, module in _user_modules():
        modules.setdefault(name, vars(module))
    for name, names in modules.items():
        view.add(names, os.path.basename(str(names.get("__file__") or name)))
    view.look_inside()
    return view.found


class _View:
    """The names found so far, and the objects still to look into: nearest ones first."""

    def __init__(self, tracked: Mapping[str, object]) -> None:
        self.found: dict[str, str] = {}
        self._held = _ids_within(tracked.values())
        # A tracked dict is held whole; other tracked objects may have attributes that their state dict leaves out.
        self._seen = {id(value) for value in tracked.values() if isinstance(value, dict)}
        self._waiting: deque[tuple[str, str, object, int]] = deque(
            (name, "the tracked object", value, 1) for name, value in tracked.items()
        )

    def add(self, names: Mapping[str, object], place: str) -> None:
        for name, value in list(names.items()):
            if not name.startswith("__"):
                self._note(name, place, value, 0)

    def look_inside(self) -> None:
        while self._waiting and len(self.found) < _NAMES:
            path, place, value, level = self._waiting.popleft()
            if id(value) in self._seen:
                continue
            self._seen.add(id(value))
            for name, child in _inside(value):
                self._note(f"{path}{name}", place, child, level)

    def _note(self, path: str, place: str, value: object, level: int) -> None:
        if len(self.found) >= _NAMES:
            return
        text = None if id(value) in self._held else _fingerprint(value)
        if text is not None:
            self.found[f"{path} in {place}"] = text
        elif level < _LEVELS and id(value) not in self._seen:
            self._waiting.append((path, place, value, level + 1))


def _fingerprint(value: Any) -> str | None:
    """Return one line for a value that is looked at as a whole; None for one that is looked into, or not at all."""
    text = text_of(value)
    if text is not None:
        return text
    kind = type(value).__name__
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if is_generator(value):
        return f"{kind} #{mark(value)}"
    if numpy is not None and isinstance(value, numpy.ndarray):
        return f"array {value.dtype} {list(value.shape)} #{mark(value)}" if value.nbytes <= _TENSOR_BYTES else None
    if torch is not None:
        if isinstance(value, torch.Tensor):
            small = value.numel() * value.element_size() <= _TENSOR_BYTES
            return f"tensor {value.dtype} {list(value.shape)} #{crc_of_tensor(value)}" if small else None
        if _is_torch_state(value, torch):
            small = not isinstance(value, torch.nn.Module) or _bytes_of(value, torch) <= _TENSOR_BYTES
            return f"{kind} #{mark(_own_state(value, torch))}" if small else None
    if isinstance(value, (list, tuple, dict, set, frozenset, deque)) and len(value) > _ITEMS:
        plain = len(value) <= 100_000 and all(text_of(item) is not None for item in value)
        return f"{kind} of {len(value):,} #{mark(value)}" if plain else None
    if isinstance(value, itertools.count):
        return repr(value)
    return None


def _is_torch_state(value: object, torch: Any) -> bool:
    schedules = (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    return isinstance(value, (torch.nn.Module, torch.optim.Optimizer, torch.amp.GradScaler, *schedules))


def _own_state(value: Any, torch: Any) -> object:
    if isinstance(value, torch.nn.Module):
        module = torch.nn.Module
        return [*module.named_parameters(value), *module.named_buffers(value), ("training", value.training)]
    if isinstance(value, torch.optim.Optimizer):
        settings = [{k: v for k, v in group.items() if k != "params"} for group in value.param_groups]
        return [settings, list(value.state.values())]
    kept = ("optimizer", "lr_lambdas", "_schedulers")
    return {name: part for name, part in vars(value).items() if name not in kept and not callable(part)}


def _bytes_of(module: Any, torch: Any) -> int:
    return sum(p.numel() * p.element_size() for p in torch.nn.Module.parameters(module))


def _inside(value: Any) -> Iterable[tuple[str, object]]:
    """Return what hangs on an object of the user's, as (``.name`` or ``[key]``, value)."""
    torch = sys.modules.get("torch")
    if isinstance(value, dict):
        return [(f"[{key!r}]", child) for key, child in itertools.islice(value.items(), _ITEMS) if text_of(key)]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [(f"[{index}]", child) for index, child in enumerate(itertools.islice(value, _ITEMS))]
    if isinstance(value, FunctionType):
        return [(f".{name}", child) for name, child in vars(value).items() if name != "__wrapped__"]
    if isinstance(value, type):
        own = vars(value).items() if _is_user_module(value.__module__) else ()
        return [(f".{n}", child) for n, child in own if not n.startswith("__") and not callable(child)]
    if isinstance(value, ModuleType):
        return []
    if torch is not None:
        if isinstance(value, torch.utils.data.DataLoader):
            return [(f".{name}", vars(value).get(name)) for name in ("dataset", "sampler", "generator")]
        if type(value).__module__ == "rekindle.run.loader":
            return [(".dataset", getattr(value, "dataset", None))]
        if isinstance(value, torch.nn.Module):
            return _inside_module(value)
        if isinstance(value, torch.optim.Optimizer) or type(value).__module__.startswith("torch.optim"):
            return []
    entered = _is_user_module(type(value).__module__) or type(value).__name__ in ("SimpleNamespace", "Namespace")
    if not entered and not (torch is not None and isinstance(value, torch.utils.data.Dataset)):
        return []
    attributes = getattr(value, "__dict__", None)
    named = list(attributes.items()) if isinstance(attributes, dict) else []
    slots = [s for kind in type(value).__mro__ for s in _slots_of(kind)]
    return [(f".{name}", child) for name, child in [*named, *_slot_values(value, slots)]]


def _inside_module(module: Any) -> list[tuple[str, object]]:
    """Attributes of a module that no state dict holds: counters in `forward`, and the like."""
    own = vars(module)
    kept = {"_parameters", "_buffers", "_modules", "training", "_non_persistent_buffers_set", "_is_full_backward_hook"}
    found = [(f".{n}", c) for n, c in own.items() if n not in kept and not n.endswith(("_hooks", "_hooks_with_kwargs"))]
    found = [(n, c) for n, c in found if not n.endswith(("_hooks_always_called", "_version"))]
    return [*found, *((f".{name}", child) for name, child in own["_modules"].items() if child is not None)]


def _slots_of(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [slots] if isinstance(slots, str) else [s for s in slots if not s.startswith("__")]


def _slot_values(value: object, slots: list[str]) -> list[tuple[str, object]]:
    found = []
    for name in slots:
        try:
            found.append((name, object.__getattribute__(value, name)))
        except AttributeError:  # a slot that was never filled
            continue
    return found


def _ids_within(values: Iterable[object]) -> set[int]:
    """Ids of everything the snapshot holds: the objects, and the modules, parameters and buffers in them."""
    torch = sys.modules.get("torch")
    held: set[int] = set()
    for value in values:
        held.add(id(value))
        if torch is not None and isinstance(value, torch.nn.Module):
            module = torch.nn.Module
            held.update(map(id, module.modules(value)))
            held.update(map(id, module.parameters(value)))
            held.update(map(id, module.buffers(value)))
    return held


def _user_frames(frame: FrameType | None) -> list[FrameType]:
    frames: list[FrameType] = []
    first = True
    while frame is not None and len(frames) < _FRAMES:
        path = frame.f_code.co_filename
        if first or not (path.startswith((_PACKAGE, "<")) or _is_installed(path)):
            frames.append(frame)
        first = False
        frame = frame.f_back
    return frames


def _user_modules() -> list[tuple[str, ModuleType]]:
    found = []
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and (name == "__main__" or _is_user_module(name)):
            path = vars(module).get("__file__")
            if name != "__mp_main__" and not str(path or "").startswith(_PACKAGE):
                found.append((name, module))
    return found


@lru_cache(maxsize=4096)
def _is_user_module(name: str | None) -> bool:
    """Whether a module is neither Python's, nor ours, nor an installed package's."""
    if name == "__main__":
        return True
    path = getattr(sys.modules.get(name or ""), "__file__", None)
    return bool(path) and not _is_installed(str(path)) and not str(path).startswith(_PACKAGE)


@lru_cache(maxsize=4096)
def _is_installed(path: str) -> bool:
    full = os.path.abspath(path)
    parts = full.split(os.sep)
    return "site-packages" in parts or "dist-packages" in parts or full.startswith(_INSTALLED)
