"""What the frames held when an exception was caught, described: modules, tensors, dicts, numbers.

Nothing runs before something was raised. Then the frames of the traceback are read once: the modules whose ``forward``
was running with their qualified names, and the locals of each frame as small values.

Law: the exception is not touched; no tensor is copied, printed or moved; a GPU is never asked for values; names that
sound secret are left out; whatever goes wrong in here is silent. torch is looked up among the loaded modules and
never imported.
"""

from __future__ import annotations

import linecache
import math
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from types import FrameType, TracebackType
from typing import Any

from rekindle.explain.event import Event, Frame, Live, LiveFrame, MappingFact, ModuleFact, TensorFact
from rekindle.explain.log import chains_of, inside, is_users_path, plain_text

__all__ = ["event_of_exception", "events_of_exception", "is_users_file"]

_MAX_FRAMES = 400
_MAX_LOCALS = 200
_MAX_KEYS = 5_000
_MAX_ELEMENTS = 100_000  # of a tensor whose range is looked at
_MAX_SHORT = 200
_SECRET = re.compile(
    r"secret|token|passw|credential|api_?key|private|auth|cookie|session_?id|(?:^|_)key$", re.IGNORECASE
)
_ROOTS = tuple(
    {
        os.path.join(path, "")
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
        if (path := sysconfig.get_path(name))
    }
)
_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def is_users_file(path: str) -> bool:
    """Whether a file is the user's own: neither of an installed package, nor of Python, nor of rekindle."""
    return is_users_path(path) and not path.startswith((*_ROOTS, _OURS))


def events_of_exception(error: BaseException) -> list[Event]:
    """Return the events of an exception that was caught, in the order in which they are asked for a cause.

    What was raised first comes before what wraps it (``raise ... from``), the traceback of a worker that stands in a
    message before that message, a member of a group before the group; what was handled when another exception was
    raised comes after that one.
    """
    events: list[Event] = []
    seen: set[int] = set()
    current: BaseException | None = error
    is_wrapped = False
    while current is not None and id(current) not in seen and len(seen) < 50:
        seen.add(id(current))
        event = _event(current)
        told = [*_told(event), event]
        events = [*told, *events] if is_wrapped else [*events, *told]
        if isinstance(current, BaseExceptionGroup):
            current, is_wrapped = current.exceptions[0], True
        elif current.__cause__ is not None:
            current, is_wrapped = current.__cause__, True
        else:
            current, is_wrapped = (None if current.__suppress_context__ else current.__context__), False
    return events


def event_of_exception(error: BaseException) -> Event:
    """Return the event of the exception itself, whatever it wraps."""
    return _event(error)


def _event(error: BaseException) -> Event:
    frames = list(_frames(error.__traceback__))
    described = tuple(_described(frame, line) for frame, line in frames)
    kind = type(error)
    return Event(
        kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
        plain_text(_message(error)),
        frames=tuple(fact.frame for fact in described),
        live=Live(tuple(_modules([frame for frame, _ in frames])), described, _is_grad_enabled()),
    )


def _told(event: Event) -> Iterator[Event]:
    """Yield what the message itself tells: the traceback of a worker process, what torch.compile ran into."""
    if "Traceback (most recent call last)" in event.message:
        for chain in chains_of(event.message):
            yield from chain.events
    yield from inside(event)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return ""


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    count = 0
    found = []
    while traceback is not None:
        found.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
        count += 1
    yield from found if count <= _MAX_FRAMES else [*found[: _MAX_FRAMES // 2], *found[-_MAX_FRAMES // 2 :]]


def _described(frame: FrameType, line: int) -> LiveFrame:
    path = frame.f_code.co_filename
    code = linecache.getline(path, line, frame.f_globals).strip()
    place = Frame(_short(path), line, frame.f_code.co_name, code[:_MAX_SHORT], is_users_file(path))
    tensors: list[TensorFact] = []
    mappings: list[MappingFact] = []
    plain: dict[str, object] = {}
    kinds: dict[str, str] = {}
    local = frame.f_locals
    for name in [name for name in local if not name.startswith("__")][:_MAX_LOCALS]:
        value = local[name]
        kinds[name] = type(value).__name__
        short: object = _NOTHING
        with suppress(Exception):  # a user's object may refuse anything
            if isinstance(value, dict):
                mappings += _mapping(name, value)
            tensors += _tensors(name, value)
            if not _SECRET.search(name):
                short = _plain(value)
        if short is not _NOTHING:
            plain[name] = short
    return LiveFrame(place, tuple(tensors), tuple(mappings), plain, kinds, path)


def _short(path: str) -> str:
    """A path under the working folder is shown from there."""
    with suppress(OSError):
        here = os.path.join(os.getcwd(), "")
        if path.startswith(here):
            return path[len(here) :]
    return path


_NOTHING = object()


def _plain(value: object) -> object:
    paths = sys.modules.get("pathlib")
    if paths is not None and isinstance(value, paths.PurePath):
        value = str(value)
    if value is None or type(value) in (bool, int, float) or (type(value) is str and len(value) <= _MAX_SHORT):
        return value
    return _NOTHING


def _mapping(name: str, value: dict[Any, Any]) -> Iterator[MappingFact]:
    """Describe a dict whose keys are texts; never through methods of its own, which may load or compute."""
    keys = list(islice(dict.keys(value), _MAX_KEYS))
    if keys and all(type(key) is str for key in keys):
        shapes = ((key, getattr(dict.__getitem__(value, key), "shape", None)) for key in keys)
        yield MappingFact(name, tuple(keys), {key: tuple(shape) for key, shape in shapes if isinstance(shape, tuple)})


def _tensors(name: str, value: object, depth: int = 0) -> Iterator[TensorFact]:
    fact = _tensor(name, value)
    if fact is not None:
        yield fact
    elif depth < 2 and type(value) in (list, tuple) and len(value) <= 16:  # type: ignore[arg-type] # has a length
        for number, item in enumerate(value):  # type: ignore[arg-type,var-annotated] # a list or tuple
            yield from _tensors(f"{name}[{number}]", item, depth + 1)
    elif depth < 2 and type(value) is dict and len(value) <= 16:
        for key, item in value.items():
            if isinstance(key, str) and len(key) < 50:
                yield from _tensors(f"{name}[{key!r}]", item, depth + 1)


def _tensor(name: str, value: object) -> TensorFact | None:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    try:
        if torch is not None and isinstance(value, torch.Tensor):
            low, high = _range(value)
            return TensorFact(
                name,
                tuple(int(size) for size in value.shape),
                str(value.dtype).removeprefix("torch."),
                str(value.device),
                bool(value.requires_grad),
                low,
                high,
            )
        if numpy is not None and isinstance(value, numpy.ndarray):
            return TensorFact(name, tuple(value.shape), str(value.dtype), "numpy")
    except Exception:  # noqa: BLE001 - a tensor subclass may refuse anything
        return None
    return None


def _range(tensor: Any) -> tuple[float | None, float | None]:
    """The smallest and largest value of a small tensor on the CPU; what is on a GPU is not asked."""
    if tensor.device.type != "cpu" or tensor.layout is not sys.modules["torch"].strided:
        return None, None
    if not 0 < tensor.numel() <= _MAX_ELEMENTS or tensor.is_complex() or "Fake" in type(tensor).__name__:
        return None, None
    with sys.modules["torch"].no_grad():
        low, high = float(tensor.min()), float(tensor.max())
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)


def _is_grad_enabled() -> bool:
    torch = sys.modules.get("torch")
    try:
        return torch is None or bool(torch.is_grad_enabled())
    except Exception:  # noqa: BLE001 - a torch that is only half imported
        return True


def _is_module(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "nn") and isinstance(value, torch.nn.Module)


def _modules(frames: list[FrameType]) -> Iterator[ModuleFact]:
    """Yield the modules whose call is on the stack, outermost first."""
    names: dict[int, str] = {}
    last: object = None
    for number, frame in enumerate(frames):
        if frame.f_code.co_name not in ("forward", "_call_impl"):
            continue
        module = frame.f_locals.get("self")
        if not _is_module(module):
            continue
        if frame.f_code.co_name == "_call_impl" and _runs_forward(frames[number + 1 :], module):
            continue  # described at its forward, whose arguments have names
        if module is last and frame.f_code.co_name == "_call_impl":
            continue
        last = module
        if not names:
            names = _qualified(module)
        yield _module(module, frame, names.get(id(module), ""))


def _runs_forward(frames: list[FrameType], module: object) -> bool:
    return any(frame.f_code.co_name == "forward" and frame.f_locals.get("self") is module for frame in frames[:4])


def _qualified(outermost: Any) -> dict[int, str]:
    try:
        return {id(module): name for name, module in outermost.named_modules()}
    except Exception:  # noqa: BLE001 - a half-built module
        return {}


def _module(module: Any, frame: FrameType, name: str) -> ModuleFact:
    inputs: list[TensorFact] = []
    code = frame.f_code
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 2]
    for argument in arguments:
        if argument != "self" and argument in frame.f_locals:
            inputs += _tensors(argument, frame.f_locals[argument])
    try:
        settings = str(module.extra_repr())[:_MAX_SHORT]
    except Exception:  # noqa: BLE001 - a user's method
        settings = ""
    own: list[TensorFact] = []
    for table in ("_parameters", "_buffers"):
        for key, value in list(getattr(module, table, {}).items())[:50]:
            fact = _tensor(key, value)
            if fact is not None:
                own.append(fact)
    attributes = list(getattr(module, "__dict__", {}).items())[:_MAX_LOCALS]
    plain = [fact for key, value in attributes if (fact := _tensor(key, value)) is not None]
    is_training = bool(getattr(module, "training", True))
    return ModuleFact(name, type(module).__name__, settings, tuple(inputs), tuple(own), is_training, tuple(plain))
