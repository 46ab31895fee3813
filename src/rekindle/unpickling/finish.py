"""The last pass over a finished tree: keys once, modules and arrays in the place of their records, no depth bombs.

It runs once per program, visits every container once, and needs no recursion: cycles and shared values are ordinary
here. Law: afterwards the tree holds clean nodes only, each still the same object wherever it is referred to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import cast

from rekindle.tree import Global, Map, Module, Record, SetOf, SparseTensor, Tensor, Value
from rekindle.unpickling.known_globals import Context
from rekindle.unpickling.program import TooMuch

__all__ = ["finish", "put_in_place"]

_CONTAINERS = frozenset((list, tuple, Map, SetOf, Record, Module, Tensor, SparseTensor))


def finish(value: Value, built: list[Record], context: Context) -> Value:
    """Return the clean tree.

    Args:
        value: what STOP left; containers are changed in place.
        built: records that got a state.
        context: knows what records turned out to be, and which maps and sets got entries.

    Raises:
        TooMuch: values are nested deeper than `Limits.depth`.
    """
    for node in context.touched.values():
        _drop_repeated(node)
    become = context.become
    for record in built:
        if id(record) not in become:
            module = _as_module(record, context)
            if module is not None:
                become[id(record)] = (record, module)
    if become:
        value = put_in_place(value, {key: node for key, (_, node) in become.items()})
    _check_depth(value, context.limits.depth)
    return value


# ---- repeated keys


def _drop_repeated(node: Map | SetOf) -> None:
    """Keep each key once, in its first place with its last value, as a dict does."""
    if isinstance(node, SetOf):
        if len(node.items) > 1:
            first: dict[object, Value] = {}
            for item in node.items:
                first.setdefault(_equality_of(item), item)
            if len(first) < len(node.items):
                node.items[:] = first.values()
        return
    if len(node.pairs) < 2:
        return
    last: dict[object, tuple[Value, Value]] = {}
    for pair in node.pairs:
        key = pair[0]
        same = key if type(key) is str else _equality_of(key)
        old = last.get(same)
        last[same] = pair if old is None else (old[0], pair[1])
    if len(last) < len(node.pairs):
        node.pairs[:] = last.values()


# A file chooses its keys, and the hash of a number is no secret: a million integers that collide would take hours.
# Python salts the hashes of text and bytes, so a number is looked up by its digits, and everything else by what it is
# made of or by identity. A key is looked at this many parts deep; larger ones count as different from each other.
_KEY_PARTS = 64


def _equality_of(key: Value) -> object:
    """Return something that is equal for two keys just where a dict would take them for the same."""
    return _equality(key, [_KEY_PARTS])


def _equality(key: Value, left: list[int]) -> object:
    left[0] -= 1
    if isinstance(key, (str, bytes)) or key is None:
        return key
    if isinstance(key, (bool, int, float)):
        return _number(key)
    if isinstance(key, complex):
        return _number(key.real) if key.imag == 0 else ("complex", key.real.hex(), key.imag.hex())
    if isinstance(key, tuple) and len(key) <= left[0]:
        return ("tuple", *(_equality(part, left) for part in key))
    if isinstance(key, SetOf) and key.frozen and len(key.items) <= left[0]:
        return frozenset(_equality(part, left) for part in key.items)
    if isinstance(key, Global):
        return ("global", key.module, key.name)
    return ("id", str(id(key)))


def _number(number: float) -> object:
    if isinstance(number, float):
        if number != number:  # noqa: PLR0124 - not a number: equal to nothing but itself
            return ("nan", str(id(number)))
        if not number.is_integer():
            return ("number", number.hex())
    return ("number", hex(int(number)))


# ---- modules


def _as_module(record: Record, context: Context) -> Module | None:
    """Return the module that a record is, whatever its class; None where it is none."""
    state = record.state
    if type(state) is tuple and state:
        state = state[0]
    if type(state) is not Map or not isinstance(record.function, Global):
        return None
    context.spend(len(state.pairs))
    entries = {key: part for key, part in state.pairs if type(key) is str}
    named = [_names(entries.get(name), context) for name in ("_parameters", "_buffers", "_modules")]
    parameters, buffers, modules = named
    if parameters is None or buffers is None or modules is None:
        return None
    module = Module(record.function)
    module.parameters, module.buffers, module.modules = parameters, buffers, modules
    kept_out = entries.get("_non_persistent_buffers_set")
    if type(kept_out) is SetOf:
        module.non_persistent = tuple(name for name in kept_out.items if isinstance(name, str))
    rest = [pair for pair in state.pairs if pair[0] not in _MODULE_PARTS]
    if record.args != ():
        rest.append(("__args__", record.args))
    if type(record.state) is tuple:
        rest.extend(("__slots__", part) for part in record.state[1:] if part is not None)
    module.attributes = Map(rest)
    return module


_MODULE_PARTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def _names(value: Value, context: Context) -> dict[str, Value] | None:
    if type(value) is not Map:
        return None
    context.spend(len(value.pairs))
    if not all(type(key) is str for key, _ in value.pairs):
        return None
    return cast("dict[str, Value]", dict(value.pairs))


# ---- records that turned out to be something else

_REPLACED = (Record, Tensor)


def _parts(node: Value) -> Iterable[Value]:
    """Return what a container holds itself; the result may be a temporary, its elements never are."""
    if isinstance(node, (list, tuple)):
        return node
    if isinstance(node, Map):
        entries = chain.from_iterable(node.pairs)
        return entries if node.attributes is None else chain(entries, (node.attributes,))
    if isinstance(node, SetOf):
        return node.items
    if isinstance(node, Record):
        whole = (node.function, node.args, node.kwargs, node.state)
        return chain(whole, chain.from_iterable(node.items), node.elements)
    if isinstance(node, Module):
        named = chain(node.parameters.values(), node.buffers.values(), node.modules.values())
        return chain(named, (node.attributes,))
    if isinstance(node, Tensor):
        return (node.attributes, node.quantizer)
    if isinstance(node, SparseTensor):
        return node.parts.values()
    return ()


def put_in_place(root: Value, become: Mapping[int, Value]) -> Value:
    """Return a tree with records and tensors replaced everywhere.

    Args:
        root: the tree; tuples that hold one are made anew, all other containers stay what they are.
        become: id of a node that is kept somewhere -> what comes in its place.
    """
    root = become.get(id(root), root)
    nodes: dict[int, Value] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        node = become.get(id(node), node)
        if type(node) not in _CONTAINERS or id(node) in nodes:
            continue
        nodes[id(node)] = node
        pending.extend(_parts(node))
    renewed = _renew_tuples([node for node in nodes.values() if isinstance(node, tuple)], become)

    def now(value: Value) -> Value:
        if type(value) is tuple:
            return renewed.get(id(value), value)
        return become.get(id(value), value) if type(value) in _REPLACED else value

    for node in nodes.values():
        _replace_parts(node, now)
    return now(root)


def _renew_tuples(tuples: list[tuple[Value, ...]], become: Mapping[int, Value]) -> dict[int, Value]:
    """Return id -> tuple as it is after replacing, inner tuples first: a tuple is in itself only through a list."""
    renewed: dict[int, Value] = {}
    pending: list[tuple[tuple[Value, ...], bool]] = [(node, False) for node in tuples]
    while pending:
        node, is_ready = pending.pop()
        if id(node) in renewed:
            continue
        if not is_ready:
            pending.append((node, True))
            pending.extend((part, False) for part in node if type(part) is tuple and id(part) not in renewed)
            continue
        parts = tuple(
            renewed[id(part)]
            if type(part) is tuple
            else become.get(id(part), part)
            if type(part) in _REPLACED
            else part
            for part in node
        )
        changed = any(fresh is not old for fresh, old in zip(parts, node, strict=True))
        renewed[id(node)] = parts if changed else node
    return renewed


def _replace_parts(node: Value, now: Callable[[Value], Value]) -> None:
    if isinstance(node, list):
        node[:] = [now(part) for part in node]
    elif isinstance(node, Map):
        node.pairs[:] = [(now(key), now(part)) for key, part in node.pairs]
    elif isinstance(node, SetOf):
        node.items[:] = [now(part) for part in node.items]
    elif isinstance(node, Record):
        node.function, node.args, node.kwargs, node.state = (
            now(node.function), now(node.args), now(node.kwargs), now(node.state)
        )  # fmt: skip
        node.items[:] = [(now(key), now(part)) for key, part in node.items]
        node.elements[:] = [now(part) for part in node.elements]
    elif isinstance(node, Module):
        for named in (node.parameters, node.buffers, node.modules):
            for name, part in named.items():
                named[name] = now(part)
    elif isinstance(node, Tensor) and node.quantizer is not None:
        node.quantizer = cast("tuple[Value, ...]", now(node.quantizer))


# ---- depth


def _check_depth(root: Value, limit: int) -> None:
    """Raise where containers are nested deeper than `limit`; a value inside itself counts once.

    The height of a shared value is found once, so a tree with 2^100 paths costs no more than its nodes.
    """
    if type(root) not in _CONTAINERS:
        return
    heights: dict[int, int] = {id(root): 0}  # 0 while it is open
    path: list[tuple[Value, Iterator[Value]]] = [(root, iter(_parts(root)))]
    tallest = [0]
    while path:
        node, parts = path[-1]
        for part in parts:
            if type(part) not in _CONTAINERS:
                continue
            if type(part) is Tensor and part.attributes is None and part.quantizer is None:
                continue
            height = heights.get(id(part))
            if height is None:
                heights[id(part)] = 0
                path.append((part, iter(_parts(part))))
                tallest.append(0)
                break
            tallest[-1] = max(tallest[-1], height)
        else:
            path.pop()
            height = tallest.pop() + 1
            heights[id(node)] = height
            if tallest:
                tallest[-1] = max(tallest[-1], height)
            if height + len(path) > limit:
                raise TooMuch(f"values are nested deeper than {limit:,}", "depth")
        if len(path) > limit:
            raise TooMuch(f"values are nested deeper than {limit:,}", "depth")
