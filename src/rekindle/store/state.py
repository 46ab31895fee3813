"""``state.json``: what a snapshot holds beyond the bytes of its tensors, as typed entries; needs no torch.

    {
     "format": "rekindle-state",
     "format_version": 1,
     "tracked": {
      "model": {"kind": "module", "class": "...", "file": "model.safetensors", "keys": [...],
                "elsewhere": {key: value}, "non_persistent": {name: value}, "frozen": [names], "tied": [[keys]]},
      "optimizer": {"kind": "optimizer", "class": "...", "defaults": {...}, "other": {...},
                    "groups": [{"params": [name or null], "shapes": [[...]], "settings": value, "state": [value]}]},
      "scheduler": {"kind": "object", "class": "...", "state": value}
     },
     "extra": value
    }

A *value* is plain JSON as `rekindle.store.plain` tags it. A tensor in it is a reference, ``{"$tensor":
"optimizer.safetensors#model.fc.weight.exp_avg"}``: a file of this snapshot and a key in it. A type that safetensors
lacks lies there as bytes (``U8``) and the reference says what they are (``dtype``, ``shape``); ``stride`` is given
where it is not row-major, ``device`` where it is not the CPU. Arrays of NumPy lie as bytes too (``$array``); a sparse
tensor is its parts (``$sparse``).

Law: whatever the bytes, the answer is a `State` or `UnreadableFile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from rekindle.errors import UnreadableFile
from rekindle.store.manifest import is_safe_name
from rekindle.store.plain import Json, dumps, loads
from rekindle.tensors import DTYPES, element_count

__all__ = [
    "Entry",
    "ModuleEntry",
    "ObjectEntry",
    "OptimizerEntry",
    "OptimizerGroup",
    "Reference",
    "State",
    "decode_state",
    "encode_state",
    "is_index",
    "parse_index",
    "parse_reference",
]

FORMAT_VERSION = 1
_MARK = "rekindle-state"
OBJECT_KINDS = ("object", "dict", "tensor", "torch.Generator", "numpy.Generator", "numpy.RandomState", "random.Random")


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """A module.

    Attributes:
        class_name: dotted path of its class, for people.
        file: the safetensors file with its parameters and buffers, by key; or the index of two such files
            (``model.safetensors.index.json``), where a frozen part has one of its own.
        keys: keys of its state dict in order, without the parts that wrappers insert.
        elsewhere: key -> value for those that are not tensors of `file`: extra state, exotic types.
        non_persistent: name -> value of buffers that the state dict leaves out.
        frozen: names of parameters that took no gradient.
        tied: groups of keys that are one tensor.
    """

    class_name: str
    file: str
    keys: tuple[str, ...]
    elsewhere: Mapping[str, Json]
    non_persistent: Mapping[str, Json]
    frozen: tuple[str, ...]
    tied: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class OptimizerGroup:
    """A parameter group; the three lists run in parallel.

    Attributes:
        params: full names (tracked name, dot, key), None where a parameter belongs to no tracked module.
        shapes: shape of each parameter.
        settings: value of the group without its parameters: learning rate, momentum, ...
        state: value of each parameter's state, None where it has none yet.
    """

    params: tuple[str | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    settings: Json
    state: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class OptimizerEntry:
    """An optimizer.

    Attributes:
        class_name: dotted path of its class; its last part must agree on resume.
        defaults: value of what it was made with.
        groups: in order.
        other: value of whatever else its state dict holds.
    """

    class_name: str
    defaults: Json
    groups: tuple[OptimizerGroup, ...]
    other: Json


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """Anything else: an object with a state dict, a dict, a tensor, a random generator.

    Attributes:
        kind: one of `OBJECT_KINDS`.
        class_name: dotted path of its class; its last part must agree on resume.
        state: its value.
    """

    kind: str
    class_name: str
    state: Json


Entry: TypeAlias = ModuleEntry | OptimizerEntry | ObjectEntry


@dataclass(frozen=True, slots=True)
class State:
    """All that ``state.json`` says.

    Attributes:
        tracked: name -> entry, in the order of tracking.
        extra: value of what the run itself keeps: counters, positions, ``run.state``.
    """

    tracked: Mapping[str, Entry]
    extra: Json


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a tensor of a value lies.

    Attributes:
        file: a safetensors file of the snapshot.
        key: its key there.
        dtype: type of the elements where the file holds their bytes only; None where the file says it.
        shape: likewise.
        stride: in elements, as it was; None where row-major.
        device: where it was.
        quantizer: scheme and parameters of a quantized tensor, as plain JSON; None for all others.
        requires_grad: as it was.
        parameter: whether it was an `nn.Parameter`.
    """

    file: str
    key: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    device: str = "cpu"
    quantizer: Json = None
    requires_grad: bool = False
    parameter: bool = False

    def to_json(self, tag: str = "$tensor") -> dict[str, Json]:
        """Return the reference as it stands in a value."""
        found: dict[str, Json] = {tag: f"{self.file}#{self.key}"}
        if self.dtype is not None:
            found["dtype"] = self.dtype
        if self.shape is not None:
            found["shape"] = list(self.shape)
        if self.stride is not None:
            found["stride"] = list(self.stride)
        if self.device != "cpu":
            found["device"] = self.device
        if self.quantizer is not None:
            found["quantizer"] = self.quantizer
        if self.requires_grad:
            found["requires_grad"] = True
        if self.parameter:
            found["parameter"] = True
        return found


def parse_reference(value: Json, tag: str = "$tensor") -> Reference:
    """Return a reference, checked but for what the file it names says.

    Raises:
        UnreadableFile: it is none.
    """
    fields = _dict(value, tag)
    text = _text(fields.get(tag), tag)
    file, mark, key = text.partition("#")
    if not mark or not is_safe_name(file):
        raise _bad(f"{ascii(text)[:80]} is not a file and a key")
    dtype = fields.get("dtype")
    shape = _optional_sizes(fields.get("shape"))
    stride = _optional_sizes(fields.get("stride"))
    if tag == "$tensor" and dtype is not None and (not isinstance(dtype, str) or dtype not in DTYPES):
        raise _bad(f"{ascii(str(dtype))[:40]} is not a type of elements")
    if shape is not None and stride is not None and len(shape) != len(stride):
        raise _bad("a shape and a stride of different lengths")
    return Reference(
        file,
        key,
        dtype=None if dtype is None else _text(dtype, "dtype"),
        shape=shape,
        stride=stride,
        device=_text(fields.get("device", "cpu"), "device"),
        quantizer=fields.get("quantizer"),
        requires_grad=fields.get("requires_grad") is True,
        parameter=fields.get("parameter") is True,
    )


def encode_state(state: State) -> bytes:
    """Return the bytes of ``state.json``."""
    return dumps(
        {
            "format": _MARK,
            "format_version": FORMAT_VERSION,
            "tracked": {name: _entry_json(entry) for name, entry in state.tracked.items()},
            "extra": state.extra,
        }
    )


def decode_state(data: bytes) -> State:
    """Return the state that these bytes are.

    Raises:
        UnreadableFile: they are not what `encode_state` writes; `what` is the reason without a path.
    """
    body = _dict(loads(data), "the state")
    if body.get("format") != _MARK:
        raise _bad("not a rekindle state")
    if body.get("format_version") != FORMAT_VERSION:
        raise _bad(f"written in format {ascii(body.get('format_version'))[:20]}; this rekindle reads {FORMAT_VERSION}")
    tracked = _dict(body.get("tracked"), "tracked")
    return State({name: _entry(name, value) for name, value in tracked.items()}, body.get("extra"))


def is_index(file: str) -> bool:
    """Tell whether a file of a snapshot is by its name an index of safetensors files."""
    return file.endswith(".safetensors.index.json")


def parse_index(file: str, data: bytes) -> dict[str, str]:
    """Return key -> safetensors file, as the index `file` of a snapshot says.

    Raises:
        UnreadableFile: it says nothing of the kind, or names a file that cannot be one of a snapshot.
    """
    body = loads(data)
    found = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(found, dict):
        raise UnreadableFile(f"{file}: has no weight_map")
    for name in found.values():
        if not isinstance(name, str) or not is_safe_name(name) or is_index(name):
            raise UnreadableFile(f"{file}: {ascii(name)[:80]} cannot be a safetensors file of a snapshot")
    return {key: str(name) for key, name in found.items()}


def _entry_json(entry: Entry) -> Json:
    if isinstance(entry, ModuleEntry):
        return {
            "kind": "module",
            "class": entry.class_name,
            "file": entry.file,
            "keys": list(entry.keys),
            "elsewhere": dict(entry.elsewhere),
            "non_persistent": dict(entry.non_persistent),
            "frozen": list(entry.frozen),
            "tied": [list(group) for group in entry.tied],
        }
    if isinstance(entry, OptimizerEntry):
        groups: list[Json] = [
            {
                "params": list(group.params),
                "shapes": [list(shape) for shape in group.shapes],
                "settings": group.settings,
                "state": list(group.state),
            }
            for group in entry.groups
        ]
        return {
            "kind": "optimizer",
            "class": entry.class_name,
            "defaults": entry.defaults,
            "groups": groups,
            "other": entry.other,
        }
    return {"kind": entry.kind, "class": entry.class_name, "state": entry.state}


def _entry(name: str, value: Json) -> Entry:
    fields = _dict(value, name)
    kind = fields.get("kind")
    class_name = _text(fields.get("class"), "class")
    if kind == "module":
        file = _text(fields.get("file"), "file")
        if not is_safe_name(file):
            raise _bad(f"{ascii(file)[:80]} cannot be a file of a snapshot")
        return ModuleEntry(
            class_name,
            file,
            keys=_texts(fields.get("keys")),
            elsewhere=_dict(fields.get("elsewhere"), "elsewhere"),
            non_persistent=_dict(fields.get("non_persistent"), "non_persistent"),
            frozen=_texts(fields.get("frozen")),
            tied=tuple(_texts(group) for group in _list(fields.get("tied"))),
        )
    if kind == "optimizer":
        groups = tuple(_group(group) for group in _list(fields.get("groups")))
        return OptimizerEntry(class_name, fields.get("defaults"), groups, fields.get("other"))
    if kind not in OBJECT_KINDS:
        raise _bad(f"{ascii(name)[:60]} is of kind {ascii(kind)[:40]}, which this rekindle does not know")
    return ObjectEntry(str(kind), class_name, fields.get("state"))


def _group(value: Json) -> OptimizerGroup:
    fields = _dict(value, "a group")
    params = tuple(None if name is None else _text(name, "params") for name in _list(fields.get("params")))
    shapes = tuple(_sizes(shape) for shape in _list(fields.get("shapes")))
    state = tuple(_list(fields.get("state")))
    if not len(params) == len(shapes) == len(state):
        raise _bad("a group whose lists differ in length")
    return OptimizerGroup(params, shapes, fields.get("settings"), state)


def _bad(reason: str) -> UnreadableFile:
    return UnreadableFile(f"state.json: {reason}")


def _dict(value: Json, what: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise _bad(f"{ascii(what)[1:-1][:60]} is not an object")
    return value


def _list(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise _bad("a list is expected")
    return value


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise _bad(f"{what} is not text")
    return value


def _texts(value: Json) -> tuple[str, ...]:
    return tuple(_text(item, "a key") for item in _list(value))


def _sizes(value: Json) -> tuple[int, ...]:
    sizes = []
    for size in _list(value):
        if type(size) is not int or not 0 <= size < 2**63:
            raise _bad("a size that is none")
        sizes.append(size)
    if len(sizes) > 64 or element_count(sizes) >= 2**63:
        raise _bad("a shape that is none")
    return tuple(sizes)


def _optional_sizes(value: Json) -> tuple[int, ...] | None:
    return None if value is None else _sizes(value)
