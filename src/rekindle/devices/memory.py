"""Memory that grows from step to step, and what holds it.

A training that keeps something of every step runs out of memory after hours. Nearly always it is a list, a dict or a
running sum that holds losses or outputs with the graphs behind them, and with these all that backward would need; or
a tensor that each step joins its own result to.

`MemoryWatch.step` counts, and looks at steps 8, 16, 32, 64, ...: ever more rarely, so that looking costs less and less.
A look measures every container of Python's (its length), the tensors in sight (their size, and the depth of the graphs
behind them), and the memory of the process and of the GPU. What grew in two spans one after the other, in proportion to
their steps, is growing; what grew and is small and holds no graph (a list of numbers for a plot) is nobody's business.

Law: looking changes nothing, and ordinary training is never named. Before Python 3.13 a frame that was looked at keeps
its variables as they were then, until the next look: one batch, and no more than one.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any, Literal, cast

import torch

from rekindle.devices.pick import parse_bytes
from rekindle.errors import RekindleError

__all__ = ["Growth", "MemoryWatch"]

_FIRST_LOOK = 8
_LEAST_GROWTH = 4  # entries in a span
_RATES_ALIKE = 2.0
_LEAST_OF_ALL = 16 * 1024**2  # starting up and finding its buffers takes a process more than a strict limit allows
_MOST_NODES = 50_000
_MOST_NODES_A_LOOK = 200_000
_FEW = 16  # entries of a container whose tensors are looked at one by one: sums that are kept in a dict
_AS_THE_STEPS = 1.2
_ENDS = 64
_REMEMBERS = type(functools.lru_cache(lambda: None))  # what `lru_cache` and `cache` make of a function
_ITS_CACHE = " (its cache)"
_SAMPLED = 16
_DEEPEST = 6
_CONTAINERS = (list, dict, set, deque)


@dataclass(frozen=True, slots=True)
class Growth:
    """Something that grows from step to step; prints as what, why, do.

    Attributes:
        kind: ``graphs`` (a container of tensors that hold their graphs), ``data`` (a container of other things),
            ``running graph`` (one tensor whose graph grows), ``array`` (one tensor or array that each step makes
            longer), ``process`` or ``gpu`` (memory not explained here).
        name: how to find it: ``history["loss"]``; "" where nothing is to be named.
        where: in which function, module or object; "" where that is not known.
        count: entries, nodes of the graph, or numbers in the tensor.
        bytes: that it holds, estimated from its newest entries.
        per_step: entries, nodes or bytes that each step adds.
    """

    kind: Literal["graphs", "data", "running graph", "array", "process", "gpu"]
    name: str
    where: str
    count: int
    bytes: int
    per_step: float

    def __str__(self) -> str:
        """Return the three parts."""
        return str(_words(self))


@dataclass(slots=True)
class _Look:
    """What was seen at a step; ids only, so that nothing is kept alive.

    Attributes:
        step: when.
        lengths: id of a container -> its length.
        depths: name and place of a tensor -> nodes of the graph behind it.
        sizes: name and place of a tensor or array -> its bytes.
        ends: name and place of one that is large enough to matter later -> its first and its last numbers.
        process_bytes: resident memory; None where the system does not tell.
        gpu_bytes: allocated by torch on the current GPU; None where CUDA has not started.
    """

    step: int
    lengths: dict[int, int] = field(default_factory=dict)
    depths: dict[tuple[str, str], int] = field(default_factory=dict)
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    ends: dict[tuple[str, str], tuple[bytes, bytes]] = field(default_factory=dict)
    process_bytes: int | None = None
    gpu_bytes: int | None = None


class MemoryWatch:
    """Notices what grows from step to step, and says once what holds it.

    Args:
        least: growth below this is not worth a word where no graphs are held: bytes, or ``"32 MB"``.
        say: told the words about each thing that grows; None prints them on stderr.

    Attributes:
        growing: all that was found so far, in the order of finding.

    Example:
        watch = rk.MemoryWatch()
        for images, labels in loader:
            ...
            watch.step()
    """

    def __init__(self, *, least: int | str = "32 MB", say: Callable[[str], object] | None = None) -> None:
        """Look at nothing yet."""
        self.growing: list[Growth] = []
        self._least = parse_bytes(least)
        self._say = say if say is not None else _print
        self._steps = 0
        self._next = _FIRST_LOOK
        self._looks: list[_Look] = []
        self._told: set[object] = set()

    def step(self) -> None:
        """Count a step; call it once per step, last in the loop's body. Now and then it looks."""
        self._steps += 1
        if self._steps >= self._next:
            self._next = self._steps * 2
            self._look(sys._getframe(1))  # noqa: SLF001 - the loop's own variables are what is searched

    def _look(self, frame: FrameType) -> None:
        now = _Look(self._steps, process_bytes=_process_bytes(), gpu_bytes=_gpu_bytes())
        for thing in _containers_in_sight(frame):
            if len(thing) >= _LEAST_GROWTH:
                now.lengths[id(thing)] = len(thing)
        nodes = 0
        for name, where, value in _arrays_in_sight(frame):
            now.sizes[name, where] = size = _size_of_array(value)
            if size * 5 >= self._least:  # two looks later it may be four times as large
                now.ends[name, where] = _ends_of(value)
            if getattr(value, "grad_fn", None) is not None and nodes < _MOST_NODES_A_LOOK:
                now.depths[name, where] = depth = _graph(value)[0]
                nodes += depth
        self._looks = [*self._looks[-2:], now]
        if len(self._looks) == 3:
            found = [*self._containers(frame), *self._graphs(frame), *self._arrays(frame)]
            self.growing += found
            found += self._whole_memory(explained=sum(growth.bytes for growth in self.growing))
            for growth in found:
                self._say(str(growth))

    def _containers(self, frame: FrameType) -> list[Growth]:
        """Return the containers that grow and matter."""
        first, second, third = self._looks
        names = {
            number: rate
            for number, length in third.lengths.items()
            if number not in self._told
            and (before := first.lengths.get(number)) is not None
            and (between := second.lengths.get(number)) is not None
            and (rate := _rate([(first.step, before), (second.step, between), (third.step, length)], _LEAST_GROWTH))
        }
        if not names:
            return []
        found = []
        for thing in _containers_in_sight(frame):
            if id(thing) not in names:
                continue
            rate = names.pop(id(thing))  # popped: one may be in sight twice
            size, with_graph = _weight(thing)
            if not with_graph and size < self._least:
                continue
            self._told.add(id(thing))
            name, where = _name_of(thing, frame)
            found.append(Growth("graphs" if with_graph else "data", name, where, len(thing), size, rate))
        return found

    def _graphs(self, frame: FrameType) -> list[Growth]:
        """Return the tensors whose graphs grow: running sums."""
        first, second, third = self._looks
        found = []
        for key, depth in third.depths.items():
            if key in self._told or key not in first.depths or key not in second.depths:
                continue
            rate = _rate([(look.step, look.depths[key]) for look in (first, second, third)], _LEAST_GROWTH)
            if rate:
                self._told.add(key)
                value = _found_again(key, frame)
                found.append(Growth("running graph", *key, depth, _graph(value)[1], rate))
        return found

    def _arrays(self, frame: FrameType) -> list[Growth]:
        """Return the tensors and arrays that each step joins something to.

        Such a one is as large as there were steps, and begins (or ends) with what it began with. Being larger than
        before is not enough: sentences that are sorted by length make larger batches all the time as well.
        """
        found = []
        for key, size in self._looks[-1].sizes.items():
            if key in self._told or size < self._least or not all(key in look.ends for look in self._looks):
                continue
            a_step = [look.sizes[key] / look.step for look in self._looks]
            heads, tails = (set(ends) for ends in zip(*(look.ends[key] for look in self._looks), strict=True))
            if max(a_step) <= _AS_THE_STEPS * min(a_step) and (len(heads) == 1 or len(tails) == 1):
                self._told.add(key)
                value = _found_again(key, frame)
                count = value.numel() if isinstance(value, torch.Tensor) else value.size
                found.append(Growth("array", *key, count, size, a_step[-1]))
        return found

    def _whole_memory(self, explained: int) -> list[Growth]:
        """Return growth of the process or the GPU that is too large to be silent about and not explained."""
        found = []
        kinds: tuple[tuple[Literal["process", "gpu"], str], ...] = (("process", "process_bytes"), ("gpu", "gpu_bytes"))
        for kind, name in kinds:
            points = [(look.step, getattr(look, name)) for look in self._looks]
            if kind in self._told or any(value is None for _, value in points):
                continue
            grown = points[-1][1] - points[0][1]
            rate = _rate(points, self._least)
            if rate and grown > 4 * max(self._least, explained, _LEAST_OF_ALL):
                self._told.add(kind)
                found.append(Growth(kind, "", "", 0, grown, rate))
        self.growing += found
        return found


def _rate(points: Sequence[tuple[int, int]], least: float) -> float:
    """Return how much each step adds, 0 where it is no steady growth.

    Args:
        points: (step, amount) at three looks.
        least: growth in each span that counts.
    """
    first, second, third = points
    early, late = second[1] - first[1], third[1] - second[1]
    if early < least or late < least:
        return 0.0
    early_rate, late_rate = early / (second[0] - first[0]), late / (third[0] - second[0])
    alike = max(early_rate, late_rate) <= _RATES_ALIKE * min(early_rate, late_rate)
    return late_rate if alike else 0.0


def _containers_in_sight(frame: FrameType) -> Iterator[Any]:
    """Yield every container that the garbage collector knows, and the dicts in variables and attributes.

    The collector does not know a dict of numbers, texts or arrays: it can be part of no circle.
    """
    for thing in gc.get_objects():
        if type(thing) in _CONTAINERS:
            yield thing
    for _, _, value in _variables(frame, modules=False):
        if type(value) is dict:
            yield value
        for inner in _attributes(value).values():
            if type(inner) is dict:
                yield inner


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object of a user's class; empty for classes, modules and what has none."""
    if issubclass(type(value), (type, ModuleType)) or type(type(value)) is not type:
        return {}
    space = getattr(value, "__dict__", None) if hasattr(type(value), "__dict__") else None
    return dict(space) if type(space) is dict else {}


# ---- how much


def _weight(container: Any) -> tuple[int, bool]:
    """Return the bytes of a container, estimated from a sample of its newest entries, and whether they hold graphs."""
    values = list(container.values() if isinstance(container, dict) else container)
    sample = values[-_SAMPLED:]
    seen: set[int] = set()
    total, with_graph = 0, False
    for value in sample:
        size, graph = _size(value, seen, 0)
        total += size
        with_graph = with_graph or graph
    return total * len(values) // max(1, len(sample)), with_graph


def _size(value: Any, seen: set[int], depth: int) -> tuple[int, bool]:
    if isinstance(value, torch.Tensor):
        size = _storage_bytes(value, seen)
        if value.grad_fn is None:
            return size, False
        return size + _graph(value, seen)[1], True
    if depth < _DEEPEST and isinstance(value, (list, tuple, set, dict)):
        parts = list(value.values() if isinstance(value, dict) else value)[:_SAMPLED]
        sizes = [_size(part, seen, depth + 1) for part in parts]
        return sys.getsizeof(value) + sum(size for size, _ in sizes), any(graph for _, graph in sizes)
    if depth < _DEEPEST and getattr(type(value), "__dataclass_fields__", None) and hasattr(value, "__dict__"):
        return _size(vars(value), seen, depth + 1)
    count = getattr(value, "nbytes", None)
    return (count if isinstance(count, int) else sys.getsizeof(value, 0)), False


def _storage_bytes(tensor: torch.Tensor, seen: set[int]) -> int:
    """Return the bytes of a tensor's storage, 0 if they were counted already."""
    try:
        storage = tensor.untyped_storage()
        number, size = storage.data_ptr(), storage.nbytes()
    except (RuntimeError, NotImplementedError):  # sparse, meta, wrappers: no storage of their own
        return 0
    if number in seen:
        return 0
    seen.add(number)
    return int(size)


def _graph(tensor: torch.Tensor, seen: set[int] | None = None) -> tuple[int, int]:
    """Return the nodes of the graph behind a tensor and the bytes that they keep, both up to a bound."""
    counted: set[int] = set() if seen is None else seen
    nodes: set[Any] = set()
    waiting = [tensor.grad_fn]
    size = 0
    while waiting and len(nodes) < _MOST_NODES:
        node = waiting.pop()
        if node is None or node in nodes or hasattr(node, "variable"):  # a parameter stays anyway
            continue
        nodes.add(node)
        waiting += [following for following, _ in node.next_functions]
        if len(nodes) <= 1000:
            size += _saved_bytes(node, counted)
    return len(nodes), size


def _saved_bytes(node: Any, seen: set[int]) -> int:
    total = 0
    for name in dir(node):
        if not name.startswith("_saved_"):
            continue
        try:
            value = getattr(node, name)
        except RuntimeError:  # given free by backward
            continue
        if isinstance(value, torch.Tensor) and not value.is_leaf:
            total += _storage_bytes(value, seen)
    return total


def _process_bytes() -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _gpu_bytes() -> int | None:
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call] # torch leaves it untyped
    return torch.cuda.memory_allocated() if started else None


# ---- who holds it


def _arrays_in_sight(frame: FrameType) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, where, value) of the tensors and arrays in sight of a frame.

    They stand in variables of the frames around, in attributes of objects there, and in small containers in either.
    """
    seen: set[int] = set()
    for name, where, value in _variables(frame, modules=False):
        places = [(name, value), *((f"{name}.{key}", inner) for key, inner in _attributes(value).items())]
        for place, held in places:
            for path, found in _arrays_at(place, held):
                if id(found) not in seen:
                    seen.add(id(found))
                    yield path, where, found


def _arrays_at(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    # Not isinstance: some modules' objects answer for their class with a warning.
    kind = type(value)
    if _is_array(kind):
        yield name, value
    elif issubclass(kind, (dict, list, tuple)) and len(value) <= _FEW:
        for key, inner in list(value.items() if issubclass(kind, dict) else enumerate(value)):
            if _is_array(type(inner)) and type(key) in (str, int):
                yield f"{name}[{key!r}]", inner


def _is_array(kind: type) -> bool:
    numpy = sys.modules.get("numpy")
    return issubclass(kind, torch.Tensor) or (numpy is not None and issubclass(kind, numpy.ndarray))


def _size_of_array(value: Any) -> int:
    try:
        return int(value.nbytes)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):  # sparse, without a shape yet, wrapped
        return 0


def _ends_of(value: Any) -> tuple[bytes, bytes]:
    """Return the first and the last numbers; of what cannot be asked for them, some that no other look has."""
    try:
        if not isinstance(value, torch.Tensor):
            numbers = value.reshape(-1)
            return numbers[:_ENDS].tobytes(), numbers[-_ENDS:].tobytes()
        flat = value.detach().view(-1)
        ends = [part.cpu().view(torch.uint8).numpy().tobytes() for part in (flat[:_ENDS], flat[-_ENDS:])]
    except (RuntimeError, NotImplementedError, ValueError, TypeError):  # sparse, not contiguous, of no plain type
        ends = [os.urandom(8), os.urandom(8)]
    return ends[0], ends[1]


def _found_again(key: tuple[str, str], frame: FrameType) -> Any:
    return next(value for name, where, value in _arrays_in_sight(frame) if (name, where) == key)


def _variables(frame: FrameType | None, *, modules: bool = True) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, where, value) of every variable in sight of a frame: of the functions around it, then of modules."""
    seen: set[int] = set()
    while frame is not None:
        space = frame.f_locals
        file = os.path.basename(frame.f_code.co_filename)
        function = frame.f_code.co_name
        # A module's own level is shared by all its functions, and named by the module below.
        if function != "<module>":
            yield from ((name, f"{function} in {file}", value) for name, value in list(space.items()))
        if id(frame.f_globals) not in seen:
            seen.add(id(frame.f_globals))
            module = os.path.basename(str(frame.f_globals.get("__file__", frame.f_globals.get("__name__", "?"))))
            yield from ((name, module, value) for name, value in list(frame.f_globals.items()))
        frame = frame.f_back
    for imported in list(sys.modules.values()) if modules else ():
        if isinstance(imported, ModuleType) and id(vars(imported)) not in seen:
            yield from ((name, imported.__name__, value) for name, value in list(vars(imported).items()))


def _name_of(thing: object, frame: FrameType) -> tuple[str, str]:
    """Return how a thing can be found: an expression, and the function, module or class in which it means something."""
    known: dict[int, tuple[str, str]] = {}
    for name, where, value in _variables(frame):
        known.setdefault(id(value), (name, where))
    hidden = {id(known), id(frame)}
    # Outwards from the thing, one holder at a time; the first that has a name in sight ends the search.
    waiting: deque[tuple[object, str, int]] = deque([(thing, "", 0)])
    seen = {id(thing)}
    fallback = ("", "")
    while waiting:
        current, path, depth = waiting.popleft()
        if id(current) in known:
            name, where = known[id(current)]
            return name + path, where
        if depth == 6 or len(seen) > 2000:
            continue
        for holder, step in _holders(current, hidden):
            if id(holder) not in seen:
                seen.add(id(holder))
                waiting.append((holder, step + path, depth + 1))
                if step.startswith(".") and not fallback[0]:
                    fallback = (step[1:] + path, f"a {type(holder).__name__}")
    return fallback


def _holders(thing: object, hidden: Iterable[int]) -> Iterator[tuple[object, str]]:
    """Yield (who holds a thing, how to get from there to it)."""
    for holder in gc.get_referrers(thing):
        if id(holder) in hidden or isinstance(holder, FrameType):
            continue
        if isinstance(holder, dict):
            key = next((key for key, value in list(holder.items()) if value is thing), None)
            if key is None:
                continue
            owner = next((o for o in gc.get_referrers(holder) if _is_owner(o, holder, key, thing)), None)
            yield (owner, f".{key}") if owner is not None else (holder, f"[{key!r}]")
        elif isinstance(holder, (list, tuple)):
            yield holder, f"[{next((i for i, value in enumerate(holder) if value is thing), '?')}]"
        elif type(holder) is _REMEMBERS:  # it holds its dict in no attribute
            yield holder, _ITS_CACHE
        elif isinstance(holder, CellType):
            for cells in gc.get_referrers(holder):
                if not isinstance(cells, tuple):
                    continue
                for function in gc.get_referrers(cells):
                    if isinstance(function, FunctionType) and function.__closure__ is cells:
                        yield function, f" (its {function.__code__.co_freevars[cells.index(holder)]})"
        else:
            space = getattr(holder, "__dict__", None)
            if isinstance(space, dict):
                key = next((key for key, value in list(space.items()) if value is thing), None)
                if key is not None:
                    yield holder, f".{key}"


def _is_owner(one: object, space: dict[Any, Any], key: object, thing: object) -> bool:
    """Whether a dict holds the attributes of an object; those of a class can only be read through a proxy."""
    if issubclass(type(one), type):
        return vars(one).get(cast("str", key)) is thing
    return getattr(one, "__dict__", None) is space


# ---- words


def _words(growth: Growth) -> RekindleError:
    who = growth.name or "a container that has no name in sight"
    place = f" ({growth.where})" if growth.where else ""
    size = _mib(growth.bytes)
    match growth.kind:
        case "graphs":
            return RekindleError(
                f"{who}{place} grows by {growth.per_step:.2g} entries a step: {growth.count:,} entries, about {size}",
                why="its tensors still have the graphs that made them"
                + (", and with these all that backward would need" if growth.bytes > 4096 * growth.count else ""),
                do="keep numbers: loss.item(); or tensors without a graph: output.detach()",
            )
        case "running graph":
            return RekindleError(
                f"{who}{place} drags a graph of {growth.count:,} nodes that grows by {growth.per_step:.3g} a step",
                why="it was made by adding up tensors of every step, and each of them brings its graph along",
                do="add numbers: total += loss.item(); or total += loss.detach()",
            )
        case "data":
            return RekindleError(
                f"{who}{place} grows by {growth.per_step:.2g} entries a step: {growth.count:,} entries, about {size}",
                why="every step adds to it and nothing is taken away",
                do="give it a bound: functools.lru_cache(maxsize=1000)"
                if growth.name.endswith(_ITS_CACHE)
                else "empty it once in an epoch, or give it a bound: collections.deque(maxlen=1000)",
            )
        case "array":
            return RekindleError(
                f"{who}{place} becomes longer by {_mib(int(growth.per_step))} a step: {growth.count:,} numbers, {size}",
                why="every step joins something to it, and copies all that is there already",
                do="keep numbers or a bounded deque; or parts in a list, written or joined once in an epoch",
            )
        case "process" | "gpu":
            what = "the memory of this process" if growth.kind == "process" else "the memory of the GPU"
            return RekindleError(
                f"{what} grows by {_mib(int(growth.per_step))} a step: {size} more than before",
                why="no list, dict or running sum of Python's explains it: a library keeps it, or a loader's cache",
                do="leave parts of the loop out until it stops; the last one left out is it",
            )
        case _:
            raise AssertionError(growth.kind)


def _mib(count: int) -> str:
    return f"{count / 1024**2:.1f} MiB" if count >= 100_000 else f"{count / 1024:.1f} KiB"


def _print(text: str) -> None:
    if sys.stderr is not None:  # closed: `print` would take it for stdout
        print(f"rekindle: {text}", file=sys.stderr, flush=True)  # noqa: T201 - this is what it was made for
