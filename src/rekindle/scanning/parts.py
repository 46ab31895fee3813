"""Tensors of which each rank holds a part: is their description the one that torch writes, and nothing more?

A DTensor in a file is a wrapper around the local tensor, with objects of a few classes that say which part it is of
what. torch saves these objects without calling their classes: each is made empty (NEWOBJ), or as a tuple of its items,
and gets its attributes as a dict (BUILD). In this form nothing of the class runs that joins, opens or imports anything:
`DeviceMesh.__setstate__` looks for process groups that are there already. Any other use is an import like any other.

Law: a name counts as such a description only if everything that the program does with it was understood.

Facts: PyTorch 2.13 `torch/distributed/tensor/__init__.py`, `torch/distributed/device_mesh.py`, `torch/_utils.py`
(`_rebuild_wrapper_subclass`, which makes a DTensor again); what `torch.save` of 2.13 writes for sharded models.
"""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.scanning.names import PARTS
from rekindle.scanning.trace import Trace
from rekindle.tree import Global, Map, Record, SetOf, Value

__all__ = ["described_parts", "names_parts"]

_NEWOBJ = b"\x81"
# What makes a DTensor is handed its class, and nothing else may be handed one of these names.
_REBUILD = ("torch._tensor", "_rebuild_from_type_v2")
_WRAPPER = ("torch._utils", "_rebuild_wrapper_subclass")
_DTENSOR = ("torch.distributed.tensor", "DTensor")
_MOST_VALUES = 1_000_000


def names_parts(found: Trace) -> bool:
    """Tell whether a program names a class that describes a part."""
    return any((name.module, name.name) in PARTS for name in found.names)


def described_parts(found: Trace, data: bytes) -> frozenset[tuple[str, str]]:
    """Return those of the names of a program that only describe parts of tensors.

    Args:
        found: what the program does.
        data: the program, from its first byte.

    Returns:
        All (module, name) of `PARTS` that it asks for; none where one of them is used in another way.
    """
    asked = frozenset((name.module, name.name) for name in found.names) & PARTS.keys()
    if found.meddles or not all(_is_made_as_saved(call, data) for call in found.calls if _pair(call.function) in PARTS):
        return frozenset()
    return asked if not any(_pair(value) in PARTS for value in _handed_over(found.calls)) else frozenset()


def _is_made_as_saved(call: Record, data: bytes) -> bool:
    pair = _pair(call.function)
    if pair is None or pair == _DTENSOR or data[call.offset : call.offset + 1] != _NEWOBJ:
        return False
    if not isinstance(call.args, tuple) or (call.args and not PARTS[pair]):
        return False
    if call.state is None:
        return True
    # No slots (a tuple of two states), and no attribute that changes what the object is.
    return isinstance(call.state, Map) and all(
        isinstance(key, str) and not key.startswith("__") for key, _ in call.state.pairs
    )


def _handed_over(calls: list[Record]) -> Iterator[Value]:
    """Yield every value that is handed to a call or becomes the state of its result, each container once."""
    waiting: list[Value] = []
    for call in calls:
        waiting += [_beside_the_class(call), call.kwargs, call.state]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if not isinstance(value, (tuple, list, Map, SetOf)):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if len(seen) > _MOST_VALUES:
                yield Global(*_DTENSOR)  # too much to look through: it counts as another use
                return
            if isinstance(value, Map):
                waiting += [part for pair in value.pairs for part in pair]
            else:
                waiting += value.items if isinstance(value, SetOf) else value


def _beside_the_class(call: Record) -> Value:
    """Return the arguments of a call, without the class where it makes a DTensor as torch does.

    That is ``_rebuild_from_type_v2(_rebuild_wrapper_subclass, DTensor, (DTensor, dtype, sizes, ...), attributes)``.
    """
    args = call.args
    if _pair(call.function) != _REBUILD or not isinstance(args, tuple) or len(args) != 4:
        return args
    function, kind, given, state = args
    if not isinstance(given, tuple) or not given:
        return args
    as_saved = (_pair(function), _pair(kind), _pair(given[0])) == (_WRAPPER, _DTENSOR, _DTENSOR)
    return [*given[1:], state] if as_saved else args


def _pair(value: Value) -> tuple[str, str] | None:
    return (value.module, value.name) if isinstance(value, Global) else None
