"""A saved object as plain data: what objects of any class hold, without their classes, and values as JSON.

`as_data` turns each object into the dict, list or value that it carries: an `argparse.Namespace` becomes the dict of
its attributes, an enum its value, a path its text. Nothing is imported for that; a class is a name here. `json_of`
gives the plain values of an object in the form of JSON, tensors left out.

Law: whatever changes its form is reported with its path, and what neither form can hold is left where it is, for the
writer to report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, isnan

from rekindle.tensors import DTYPES
from rekindle.tree import Global, Map, Module, Record, SetOf, SparseTensor, StorageRef, Tensor, Value, children

__all__ = ["AsData", "JsonValues", "as_data", "json_of"]

# Calls that the writers of torch's containers write as they are.
_PLAIN = frozenset(
    ("torch.Size", "torch.device", "torch.serialization._get_layout", "builtins.bytearray", "__builtin__.bytearray")
)
# Modules whose functions a pickle calls for what they do, not for what they are.
_NO_CLASSES = frozenset(("builtins", "__builtin__", "os", "posix", "nt", "subprocess", "sys", "operator", "functools"))
_DICTS = frozenset(("dict", "OrderedDict", "Counter"))
_MAX_VALUES = 1_000_000


@dataclass(slots=True)
class AsData:
    """An object made plain.

    Attributes:
        tree: the plain form.
        changed: (path, what became of it).
    """

    tree: Value = None
    changed: list[tuple[str, str]] = field(default_factory=list)


def as_data(tree: Value) -> AsData:
    """Return an object without any class but torch's own and Python's plain ones; shared parts stay shared."""
    result = AsData()
    done: dict[int, Value] = {}
    kept: list[Value] = []  # holds what ids belong to

    def plain(node: Value, path: str) -> Value:
        if isinstance(node, Global):
            return _name(node, path, result)
        if not isinstance(node, (Map, list, tuple, SetOf, Record)):
            return node
        if id(node) in done:
            return done[id(node)]
        kept.append(node)
        if isinstance(node, Record):
            held = _held(node, path, result)
            if held is node:
                done[id(node)] = node
            else:
                kept.append(held)
                done[id(node)] = None  # an object inside itself
                done[id(node)] = plain(held, path)
            return done[id(node)]
        begin = f"{path}." if path else ""
        if isinstance(node, Map):
            if node.type not in _DICTS:
                result.changed.append((path, f"a {node.type} is written as a dict"))
            made = Map([], node.type if node.type in _DICTS else "dict", node.attributes)
            done[id(node)] = made
            for (key, child), (name, _) in zip(node.pairs, children(node), strict=True):
                made.pairs.append((plain(key, begin + name), plain(child, begin + name)))
            return made
        if isinstance(node, SetOf):
            items = [plain(child, f"{begin}{at}") for at, child in enumerate(node.items)]
            if node.frozen:
                result.changed.append((path, "a frozenset is written as a set"))
            if all(_is_hashable(child) for child in items):
                done[id(node)] = SetOf(items)
            else:
                result.changed.append((path, "a set of objects is written as a list"))
                done[id(node)] = items
            return done[id(node)]
        if isinstance(node, list):
            listed: list[Value] = []
            done[id(node)] = listed
            for at, child in enumerate(node):
                listed.append(plain(child, f"{begin}{at}"))
            return listed
        done[id(node)] = tuple([plain(child, f"{begin}{at}") for at, child in enumerate(node)])
        return done[id(node)]

    result.tree = plain(tree, "")
    return result


def _name(node: Global, path: str, result: AsData) -> Value:
    if node.module == "torch":
        return node
    result.changed.append((path, f"{node.path} is code; its name is written"))
    return node.path


def _held(node: Record, path: str, result: AsData) -> Value:
    """Return what an object carries, without its class; the object itself where it is plain already."""
    function = node.function.path if isinstance(node.function, Global) else ""
    if function in _PLAIN and node.state is None and not node.items and not node.elements:
        return node
    module = node.function.module if isinstance(node.function, Global) else ""
    if not function or module.partition(".")[0] in _NO_CLASSES:
        return node  # the result of a function, not an object: there is no data of its own
    called = function
    state = node.state
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], Map):
        # What a class with __slots__ gives: (its __dict__ or None, its slots).
        state = Map([*(state[0].pairs if isinstance(state[0], Map) else ()), *state[1].pairs])
    args = node.args if isinstance(node.args, tuple) else (node.args,)
    held: Value
    if node.items:
        form, held = "a dict of what it held", Map(list(node.items))
    elif node.elements:
        form, held = "a list of what it held", list(node.elements)
    elif isinstance(state, Map):
        form, held = "a dict of its attributes", Map(list(state.pairs))
    elif state is not None:
        form, held = "its state", state
    elif function.startswith("pathlib.") and args and all(isinstance(part, str) for part in args):
        form, held = "its text", _joined([str(part) for part in args])
    elif len(args) == 1 and args[0] is not None:
        form, held = "its value", args[0]
    elif args and args != (None,):
        form, held = "the list of its arguments", list(args)
    else:
        form, held = "its name", called
    result.changed.append((path, f"an object of {called} is written as {form}"))
    return held


def _joined(parts: list[str]) -> str:
    root = parts[0] if parts[0].endswith(("/", "\\")) else f"{parts[0]}/"
    return root + "/".join(parts[1:]) if len(parts) > 1 else parts[0]


def _is_hashable(value: Value) -> bool:
    if isinstance(value, tuple):
        return all(_is_hashable(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


@dataclass(slots=True)
class JsonValues:
    """The plain values of an object.

    Attributes:
        value: dicts, lists, texts and numbers; None where there are none.
        count: how many values.
        dropped: (path, why) of what JSON cannot hold.
    """

    value: object = None
    count: int = 0
    dropped: list[tuple[str, str]] = field(default_factory=list)


_NOTHING = object()


def json_of(tree: Value) -> JsonValues:
    """Return the plain values of an object as JSON has them.

    Tensors, and dicts that hold nothing else, are left out; in a list, null keeps the place of one. Tuples become
    lists, keys become texts, and the numbers that JSON lacks the texts ``NaN``, ``Infinity`` and ``-Infinity``.
    """
    result = JsonValues()
    entered: set[int] = set()

    def value_of(node: Value, path: str) -> object:
        if isinstance(node, (Tensor, SparseTensor, StorageRef, Module)):
            return _NOTHING
        if node is None or isinstance(node, (bool, int, str)):
            result.count += 1
            return node
        if isinstance(node, float):
            result.count += 1
            return node if isfinite(node) else "NaN" if isnan(node) else f"{'-' if node < 0 else ''}Infinity"
        if not isinstance(node, (Map, list, tuple)):
            result.dropped.append((path, f"{_kind(node)}; JSON has no form for it"))
            return _NOTHING
        if id(node) in entered or result.count > _MAX_VALUES:
            result.dropped.append((path, "it contains itself" if id(node) in entered else "too many values"))
            return _NOTHING
        entered.add(id(node))
        begin = f"{path}." if path else ""
        found: object
        if isinstance(node, Map):
            pairs: dict[str, object] = {}
            for name, child in children(node):
                made = value_of(child, begin + name)
                if made is not _NOTHING:
                    pairs[name] = made
            found = pairs if pairs or not node.pairs else _NOTHING
        else:
            items = [value_of(child, f"{begin}{at}") for at, child in enumerate(node)]
            real = any(item is not _NOTHING for item in items)
            found = [None if item is _NOTHING else item for item in items] if real or not items else _NOTHING
        entered.discard(id(node))
        return found

    found = value_of(tree, "")
    result.value = None if found is _NOTHING else found
    return result


def _kind(node: Value) -> str:
    if isinstance(node, Record):
        return f"an object of {node.function.path}" if isinstance(node.function, Global) else "the result of a call"
    if isinstance(node, Global):
        return f"{node.path}, a dtype" if node.module == "torch" and node.name in DTYPES else f"{node.path}, code"
    return {bytes: "bytes", complex: "a complex number", SetOf: "a set"}.get(type(node), type(node).__name__)
