"""Plain values as strict JSON, exact both ways.

JSON holds None, bool, text, lists, objects with text keys, small integers and finite floats as they are. Everything
else is an object with one key that starts with ``$``:

    {"$int": "-0x1f..."}            an integer of 2^53 or more in size
    {"$float": "nan"}               also inf, -inf; another NaN by its 16 hexadecimal digits
    {"$str": "eda080"}              text with lone surrogates: UTF-8 with surrogatepass, in hexadecimal
    {"$bytes": "AAE="}  {"$bytearray": "AAE="}  {"$complex": [1.0, -0.0]}  {"$range": [0, 10, 2]}
    {"$tuple": [...]}  {"$set": [...]}  {"$frozenset": [...]}  {"$deque": [[...], 3]}
    {"$dict": [[key, value], ...]}  with keys that are not text, or text that starts with ``$``
    {"$OrderedDict": [[key, value], ...]}  {"$Counter": [...]}  {"$defaultdict": ["list", [[key, value], ...]]}
    {"$Size": [2, 3]}  {"$dtype": "bfloat16"}  {"$device": "cuda:0"}       torch's, by name
    {"$tensor": "model.safetensors#fc.weight", ...}  {"$array": ...}  {"$scalar": ...}   what a caller adds

Law: `decode(encode(value))` is the value, to the bit and the type, or `encode` refuses and says where. Nothing here
imports torch or numpy: a caller hands in what makes their objects, and `to_tree` makes inert nodes of `rekindle.tree`.
"""

from __future__ import annotations

import binascii
import json
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from rekindle.errors import StateMismatch, UnreadableFile
from rekindle.tree import Global, Map, Record, SetOf, Value

__all__ = ["Json", "Path", "decode", "dumps", "encode", "loads", "path_text", "to_tree"]

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
Path: TypeAlias = tuple[object, ...]

_DEEPEST = 200
_EXACT_BITS = 53  # every JSON reader has integers of this size
_FACTORIES: dict[str, Callable[[], object]] = {
    "int": int,
    "float": float,
    "complex": complex,
    "bool": bool,
    "str": str,
    "bytes": bytes,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "set": set,
}


def no_leaf(value: object, path: Path) -> Json | None:  # noqa: ARG001 - the form of a leaf
    """Know no value beyond plain Python: the leaf that `encode` uses when it is given none."""
    return None


def encode(value: object, path: Path = (), leaf: Callable[[object, Path], Json | None] = no_leaf) -> Json:
    """Return a value as strict JSON.

    Args:
        value: anything plain.
        path: where it lies: the name it is tracked under, then keys and indices; for messages.
        leaf: asked first about every value that is not plain Python; returns its JSON (an object with one ``$`` key),
            or None when it does not know it either.

    Raises:
        StateMismatch: something in it is not plain, contains itself, or is nested more than 200 deep; named by path.
    """
    return _Encoder(leaf).encode(value, path, 0)


def decode(value: Json, make: Callable[[str, Json], object]) -> object:
    """Return what `encode` was given.

    Args:
        value: from `loads`.
        make: called with the tag (``"$tensor"``, ``"$Size"``, ...) and its object for every tag that is not plain
            Python; returns the value, or raises `UnreadableFile` for a tag it does not know.

    Raises:
        UnreadableFile: it is not what `encode` writes.
    """
    try:
        return _decode(value, make)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        if isinstance(error, UnreadableFile):
            raise
        raise UnreadableFile(f"a value is not as it is written: {str(error)[:100]}") from None


def to_tree(value: Json, leaf: Callable[[str, dict[str, Json]], Value]) -> Value:
    """Return the value as nodes of `rekindle.tree`, without making any object that the file names.

    Args:
        value: from `loads`.
        leaf: called with the tag and its object for tensors, arrays and scalars.

    Raises:
        UnreadableFile: it is not what `encode` writes.
    """
    try:
        return _to_tree(value, leaf)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        if isinstance(error, UnreadableFile):
            raise
        raise UnreadableFile(f"a value is not as it is written: {str(error)[:100]}") from None


def dumps(value: Json) -> bytes:
    """Return strict JSON in one form only: sorted by nothing, indented by one space, ASCII, no NaN."""
    return json.dumps(value, indent=1, allow_nan=False).encode("ascii") + b"\n"


def loads(data: bytes) -> Json:
    """Return the JSON value of these bytes.

    Raises:
        UnreadableFile: they are not strict JSON: NaN, a key twice in one object, nesting too deep.
    """
    try:
        value: Json = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"not strict JSON: {str(error)[:100]}") from None
    return value


def path_text(path: Path) -> str:
    """Return a path as a person would write it: ``scheduler['lr_lambdas'][0]``."""
    if not path:
        return "the value"
    return str(path[0]) + "".join(f"[{ascii(part)[:60]}]" for part in path[1:])


class _Encoder:
    """Holds the containers that are open on the way down, so that a cycle is seen."""

    def __init__(self, leaf: Callable[[object, Path], Json | None]) -> None:
        self.leaf = leaf
        self.open: set[int] = set()

    def encode(self, value: object, path: Path, depth: int) -> Json:
        kind = type(value)
        if value is None or kind is bool:
            return value  # type: ignore[return-value] # None or bool, as the line above says
        if isinstance(value, int) and kind is int:
            return value if value.bit_length() <= _EXACT_BITS else {"$int": hex(value)}
        if isinstance(value, float) and kind is float:
            return _encode_float(value)
        if isinstance(value, str) and kind is str:
            return {"$str": value.encode("utf-8", "surrogatepass").hex()} if _has_surrogates(value) else value
        if isinstance(value, (bytes, bytearray)) and kind in {bytes, bytearray}:
            return {f"${kind.__name__}": binascii.b2a_base64(value, newline=False).decode("ascii")}
        if isinstance(value, complex) and kind is complex:
            return {"$complex": [_encode_float(value.real), _encode_float(value.imag)]}
        if isinstance(value, range):
            return {"$range": [self.encode(part, path, depth) for part in (value.start, value.stop, value.step)]}
        if depth > _DEEPEST:
            raise StateMismatch(f"{path_text(path[:4])}: is nested more than {_DEEPEST} deep", do=_KEEP_SIMPLE)
        if id(value) in self.open:
            raise StateMismatch(f"{path_text(path)}: contains itself", do=_KEEP_SIMPLE)
        self.open.add(id(value))
        try:
            found = self._container(value, path, depth + 1)
        finally:
            self.open.discard(id(value))
        if found is None:
            found = self.leaf(value, path)
        if found is None:
            raise StateMismatch(
                f"{path_text(path)}: {_a_kind(value)} cannot be saved",
                why="a snapshot holds tensors and plain values only, so that nothing in it is ever executed",
                do=_KEEP_SIMPLE,
            )
        return found

    def _container(self, value: object, path: Path, depth: int) -> Json | None:
        kind = type(value)
        if isinstance(value, list) and kind is list:
            return self._items(value, path, depth)
        if isinstance(value, tuple) and kind is tuple:
            return {"$tuple": self._items(value, path, depth)}
        if isinstance(value, dict):
            if kind is dict:
                if all(type(key) is str and not key.startswith("$") and not _has_surrogates(key) for key in value):
                    return {key: self.encode(child, (*path, key), depth) for key, child in value.items()}
                return {"$dict": self._pairs(value, path, depth)}
            if kind is OrderedDict or kind is Counter:
                return {f"${kind.__name__}": self._pairs(value, path, depth)}
            if isinstance(value, defaultdict) and kind is defaultdict:
                return {"$defaultdict": [_factory_name(value, path), self._pairs(value, path, depth)]}
        if isinstance(value, deque) and kind is deque:
            return {"$deque": [self._items(value, path, depth), value.maxlen]}
        if isinstance(value, (set, frozenset)) and kind in {set, frozenset}:
            # Sets have no order; the file has one, so that the same state gives the same bytes.
            return {f"${kind.__name__}": sorted(self._items(value, path, depth), key=json.dumps)}
        return None

    def _items(self, items: Iterable[object], path: Path, depth: int) -> list[Json]:
        return [self.encode(child, (*path, index), depth) for index, child in enumerate(items)]

    def _pairs(self, pairs: dict[object, object], path: Path, depth: int) -> list[Json]:
        return [
            [self.encode(key, path, depth), self.encode(child, (*path, key), depth)] for key, child in pairs.items()
        ]


_KEEP_SIMPLE = "keep numbers, text, tensors, lists and dicts of them in the state, and rebuild the rest in the script"


def _a_kind(value: object) -> str:
    kind = type(value)
    if kind.__name__ in {"function", "builtin_function_or_method", "method"}:
        return f"a function ({getattr(value, '__qualname__', '?')})"
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a {module}{kind.__qualname__}"


def _factory_name(value: defaultdict[object, object], path: Path) -> Json:
    if value.default_factory is None:
        return None
    for name, factory in _FACTORIES.items():
        if value.default_factory is factory:
            return name
    raise StateMismatch(
        f"{path_text(path)}: a defaultdict whose default is made by {_a_kind(value.default_factory)} cannot be saved",
        why="a function has no place in a snapshot",
        do="use defaultdict(int), defaultdict(list) or a plain dict",
    )


def _has_surrogates(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _encode_float(value: float) -> Json:
    if value - value == 0:  # finite
        return value
    if value == value:  # noqa: PLR0124 - not NaN
        return {"$float": "inf" if value > 0 else "-inf"}
    bits = struct.pack(">d", value).hex()
    return {"$float": "nan" if bits == "7ff8000000000000" else bits}


def _decode_float(value: Json) -> float:
    if type(value) is float:
        return value
    if not isinstance(value, dict) or value.keys() != {"$float"}:
        raise ValueError("a float is expected")
    text = value["$float"]
    if text in {"nan", "inf", "-inf"}:
        return float(str(text))
    bits = bytes.fromhex(str(text))
    if len(bits) != 8:
        raise ValueError("a float has eight bytes")
    (number,) = struct.unpack(">d", bits)
    return float(number)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _tag_of(value: dict[str, Json]) -> str | None:
    """Return the key that starts with ``$``: always the first, since plain objects have no such key."""
    first = next(iter(value), "")
    return first if first.startswith("$") else None


def _decode(value: Json, make: Callable[[str, Json], object]) -> object:
    if isinstance(value, list):
        return [_decode(child, make) for child in value]
    if not isinstance(value, dict):
        return value
    tag = _tag_of(value)
    if tag is None:
        return {key: _decode(child, make) for key, child in value.items()}
    scalar = _decode_scalar(tag, value[tag])
    if scalar is not None:
        return scalar
    body = value[tag]
    match tag:
        case "$tuple":
            return tuple(_decode(child, make) for child in _list(body))
        case "$set":
            return {_decode(child, make) for child in _list(body)}
        case "$frozenset":
            return frozenset(_decode(child, make) for child in _list(body))
        case "$deque":
            items, longest = _list(body)
            return deque((_decode(child, make) for child in _list(items)), maxlen=_optional_int(longest))
        case "$dict":
            return dict(_decode_pairs(body, make))
        case "$OrderedDict":
            return OrderedDict(_decode_pairs(body, make))
        case "$Counter":
            return Counter(dict(_decode_pairs(body, make)))
        case "$defaultdict":
            name, pairs = _list(body)
            factory = None if name is None else _FACTORIES[str(name)]
            return defaultdict(factory, _decode_pairs(pairs, make))
    return make(tag, value)


def _decode_scalar(tag: str, body: Json) -> object:
    """Return the value of a tag that holds no other values, None where it is another one."""
    match tag:
        case "$int":
            return int(str(body), 16)
        case "$float":
            return _decode_float({"$float": body})
        case "$str":
            return bytes.fromhex(str(body)).decode("utf-8", "surrogatepass")
        case "$bytes":
            return binascii.a2b_base64(str(body), strict_mode=True)
        case "$bytearray":
            return bytearray(binascii.a2b_base64(str(body), strict_mode=True))
        case "$complex":
            real, imaginary = _list(body)
            return complex(_decode_float(real), _decode_float(imaginary))
        case "$range":
            start, stop, step = (_int(part) for part in _list(body))
            return range(start, stop, step)
    return None


def _decode_pairs(body: Json, make: Callable[[str, Json], object]) -> list[tuple[object, object]]:
    pairs = []
    for pair in _list(body):
        key, child = _list(pair)
        pairs.append((_decode(key, make), _decode(child, make)))
    return pairs


def _list(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise TypeError("a list is expected")
    return value


def _int(value: Json) -> int:
    if isinstance(value, dict) and value.keys() == {"$int"}:
        return int(str(value["$int"]), 16)
    if type(value) is not int:
        raise TypeError("an integer is expected")
    return value


def _optional_int(value: Json) -> int | None:
    return None if value is None else _int(value)


def _to_tree(value: Json, leaf: Callable[[str, dict[str, Json]], Value]) -> Value:
    if isinstance(value, list):
        return [_to_tree(child, leaf) for child in value]
    if not isinstance(value, dict):
        return value
    tag = _tag_of(value)
    if tag is None:
        return Map([(key, _to_tree(child, leaf)) for key, child in value.items()])
    body = value[tag]
    scalar = _decode_scalar(tag, body)
    if isinstance(scalar, (int, float, complex, str, bytes)):
        return scalar
    if isinstance(scalar, bytearray):
        return bytes(scalar)
    if isinstance(scalar, range):
        return Record(Global("builtins", "range"), (scalar.start, scalar.stop, scalar.step))
    match tag:
        case "$tuple":
            return tuple(_to_tree(child, leaf) for child in _list(body))
        case "$set" | "$frozenset":
            return SetOf([_to_tree(child, leaf) for child in _list(body)], frozen=tag == "$frozenset")
        case "$deque":
            items, longest = _list(body)
            return Record(
                Global("collections", "deque"),
                ([_to_tree(child, leaf) for child in _list(items)], _optional_int(longest)),
            )
        case "$dict" | "$OrderedDict" | "$Counter":
            return Map(_tree_pairs(body, leaf), type=tag[1:])
        case "$defaultdict":
            _, pairs = _list(body)
            return Map(_tree_pairs(pairs, leaf), type="defaultdict")
        case "$Size":
            return Record(Global("torch", "Size"), (tuple(_int(size) for size in _list(body)),))
        case "$dtype":
            return Global("torch", str(body))
        case "$device":
            return Record(Global("torch", "device"), (str(body),))
    return leaf(tag, value)


def _tree_pairs(body: Json, leaf: Callable[[str, dict[str, Json]], Value]) -> list[tuple[Value, Value]]:
    pairs: list[tuple[Value, Value]] = []
    for pair in _list(body):
        key, child = _list(pair)
        pairs.append((_to_tree(key, leaf), _to_tree(child, leaf)))
    return pairs
