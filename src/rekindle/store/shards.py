"""``model.shards.json``: which part of which tensor lies in which file of a snapshot that many processes wrote.

    {
     "format": "rekindle-shards",
     "format_version": 1,
     "tensors": {
      "blocks.0.weight": {"dtype": "float32", "shape": [65, 8], "parts": [
        {"file": "model.rank-00000-of-00002.safetensors", "offset": [0, 0], "shape": [33, 8]},
        {"file": "model.rank-00001-of-00002.safetensors", "offset": [33, 0], "shape": [32, 8]}]}
     }
    }

A part is a box of the tensor: the index of its first element, and its shape. It stands in its file under the key of the
tensor, or under ``key`` where that is given; of a type that safetensors lacks it is the bytes (``U8``). Parts without
elements are left out. The parts of a tensor cover it, each element once, in whatever boxes: so the number of processes
that read need not be the number that wrote.

Law: whatever the bytes, the answer is the tensors or `UnreadableFile`. Whether parts cover a tensor is looked at by
those who put it together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rekindle.errors import UnreadableFile
from rekindle.store.manifest import is_safe_name
from rekindle.store.plain import Json, dumps, loads
from rekindle.tensors import DTYPES, element_count

__all__ = ["Part", "ShardedTensor", "encode_shards", "is_shards", "name_of_part_file", "name_of_shards", "parse_shards"]

FORMAT_VERSION = 1
_MARK = "rekindle-shards"
_SUFFIX = ".shards.json"


@dataclass(frozen=True, slots=True)
class Part:
    """A box of a tensor, and where it lies.

    Attributes:
        file: a safetensors file of the snapshot.
        key: its key there.
        offset: index of its first element in the tensor.
        shape: of the box.
    """

    file: str
    key: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShardedTensor:
    """A tensor that lies in parts.

    Attributes:
        dtype: name in `rekindle.tensors.DTYPES`.
        shape: of the whole.
        parts: those with elements, in any order.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def is_shards(file: str) -> bool:
    """Tell whether a file of a snapshot is by its name one that says where parts lie."""
    return file.endswith(_SUFFIX)


def name_of_shards(file: str) -> str:
    """Return the name of what says where the parts of ``model.safetensors`` lie: ``model.shards.json``."""
    return file.removesuffix(".safetensors") + _SUFFIX


def name_of_part_file(file: str, rank: int, world_size: int) -> str:
    """Return where a process puts its parts of ``model.safetensors``: ``model.rank-00000-of-00002.safetensors``."""
    return f"{file.removesuffix('.safetensors')}.rank-{rank:05d}-of-{world_size:05d}.safetensors"


def encode_shards(tensors: Mapping[str, ShardedTensor]) -> bytes:
    """Return the bytes of such a file; the same for the same tensors, in whatever order they come."""
    return dumps(
        {
            "format": _MARK,
            "format_version": FORMAT_VERSION,
            "tensors": {key: _tensor_json(key, tensors[key]) for key in sorted(tensors)},
        }
    )


def parse_shards(file: str, data: bytes) -> dict[str, ShardedTensor]:
    """Return key -> tensor, as the file says.

    Args:
        file: its name, for words.
        data: its bytes.

    Raises:
        UnreadableFile: they are not what `encode_shards` writes, or name a file that cannot be one of a snapshot.
    """
    body = loads(data)
    if not isinstance(body, dict) or body.get("format") != _MARK:
        raise UnreadableFile(f"{file}: does not say where parts of tensors lie")
    if body.get("format_version") != FORMAT_VERSION:
        version = ascii(body.get("format_version"))[:20]
        raise UnreadableFile(f"{file}: written in format {version}; this rekindle reads {FORMAT_VERSION}")
    tensors = body.get("tensors")
    if not isinstance(tensors, dict):
        raise UnreadableFile(f"{file}: lists no tensors")
    return {key: _tensor(file, key, value) for key, value in tensors.items()}


def _tensor_json(key: str, tensor: ShardedTensor) -> Json:
    parts: list[Json] = []
    for part in tensor.parts:
        fields: dict[str, Json] = {"file": part.file, "offset": list(part.offset), "shape": list(part.shape)}
        if part.key != key:
            fields["key"] = part.key
        parts.append(fields)
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "parts": parts}


def _tensor(file: str, key: str, value: Json) -> ShardedTensor:
    where = f"{file}: {ascii(key)[:80]}"
    if not isinstance(value, dict):
        raise UnreadableFile(f"{where} is not described")
    dtype, parts = value.get("dtype"), value.get("parts")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnreadableFile(f"{where} is of {ascii(dtype)[:40]}, which is not a type of elements")
    if not isinstance(parts, list):
        raise UnreadableFile(f"{where} has no parts")
    shape = _sizes(where, value.get("shape"))
    return ShardedTensor(dtype, shape, tuple(_part(where, key, part, len(shape)) for part in parts))


def _part(where: str, key: str, value: Json, dimensions: int) -> Part:
    fields = value if isinstance(value, dict) else {}
    name, inner = fields.get("file"), fields.get("key", key)
    if not isinstance(name, str) or not is_safe_name(name) or not name.endswith(".safetensors"):
        raise UnreadableFile(f"{where} has a part in {ascii(name)[:80]}, which cannot be a file of a snapshot")
    if not isinstance(inner, str):
        raise UnreadableFile(f"{where} has a part without a key")
    offset, shape = _sizes(where, fields.get("offset")), _sizes(where, fields.get("shape"))
    if not len(offset) == len(shape) == dimensions:
        raise UnreadableFile(f"{where} has a part of another number of dimensions")
    return Part(name, inner, offset, shape)


def _sizes(where: str, value: Json) -> tuple[int, ...]:
    sizes = [size for size in value if type(size) is int and 0 <= size < 2**63] if isinstance(value, list) else None
    if sizes is None or not isinstance(value, list) or len(sizes) != len(value):
        raise UnreadableFile(f"{where} has a shape that is none")
    if len(sizes) > 64 or element_count(tuple(sizes)) >= 2**63:
        raise UnreadableFile(f"{where} has a shape that is none")
    return tuple(sizes)
