"""The files of one snapshot, read whole, verified, and handed out as tensors and values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from rekindle.errors import RekindleError, SnapshotDamaged, StateMismatch, UnreadableFile
from rekindle.formats import _assembled
from rekindle.run.host_tensors import copy_bits, dtype_named, is_dense, items_of, on_device, quantized, view_of
from rekindle.run.sharded import Box, is_sharded, own_box, part_of, sharded_like
from rekindle.store.manifest import Manifest, read_verified
from rekindle.store.plain import Json
from rekindle.store.shards import Part, ShardedTensor, is_shards, parse_shards
from rekindle.store.state import Reference, is_index, parse_index, parse_reference
from rekindle.tensors import DTYPE_OF_SAFETENSORS, DTYPES, element_count

__all__ = ["SnapshotFiles", "damaged", "or_damaged"]

_HEADER_LIMIT_BYTES = 100_000_000
_COMPRESSED = ("sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")


class SnapshotFiles:
    """The files of a snapshot, each read once and verified, and the tensors in them."""

    def __init__(self, path: str, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._bytes: dict[str, torch.Tensor] = {}
        self._headers: dict[str, dict[str, tuple[str, tuple[int, ...], int, int]]] = {}
        self._indices: dict[str, Mapping[str, str]] = {}
        self._shards: dict[str, Mapping[str, ShardedTensor]] = {}

    def bytes_of(self, name: str) -> torch.Tensor:
        """Return the content of a file as a flat uint8 tensor."""
        if name not in self._bytes:
            if name not in self.manifest.files:
                raise UnreadableFile(f"{name} is not among its files")
            data = torch.empty(self.manifest.files[name].size, dtype=torch.uint8)
            read_verified(self.path, name, self.manifest, view_of(data))
            self._bytes[name] = data
        return self._bytes[name]

    def keys(self, file: str) -> list[str]:
        """Return the keys of a safetensors file, of all files of an index, or of all tensors that lie in parts."""
        if is_shards(file):
            return list(self._sharded(file))
        return list(self._shard_of(file) or self._header(file))

    def tensor(self, file: str, key: str, like: object = None) -> torch.Tensor:
        """Return a tensor that looks into the file's bytes; copy it before keeping it.

        Args:
            file: a safetensors file, an index of several, or what says where parts lie.
            key: of the tensor.
            like: where this is a sharded tensor of the same shape, only this process's part is read, and what comes
                back is sharded as it is.
        """
        if is_sharded(like):
            return self._part_for(file, key, like)
        if is_shards(file):
            whole = self._sharded_tensor(file, key)
            return self._box(file, key, whole, Box((0,) * len(whole.shape), whole.shape, 0))
        file = self._shard_of(file).get(key, file)
        if is_index(file):
            raise UnreadableFile(f"{file} has no tensor {ascii(key)[:80]}")
        header = self._header(file)
        if key not in header:
            raise UnreadableFile(f"{file} has no tensor {ascii(key)[:80]}")
        dtype, shape, start, end = header[key]
        data = self.bytes_of(file)[start:end]
        kind = dtype_named(dtype)
        if start % DTYPES[dtype].itemsize:
            data = data.clone()
        return torch.empty(shape, dtype=kind) if start == end else data.view(kind).reshape(shape)

    def _part_for(self, file: str, key: str, like: Any) -> torch.Tensor:
        """Return a tensor as `like` is sharded, of which only this process's part was read."""
        if not is_shards(file):
            return _shard(self.tensor(file, key), like)
        whole = self._sharded_tensor(file, key)
        if whole.shape == tuple(like.shape):
            return sharded_like(self._box(file, key, whole, own_box(like)), like)
        return sharded_like(self.tensor(file, key), like, shape=whole.shape)

    def _box(self, file: str, key: str, whole: ShardedTensor, box: Box) -> torch.Tensor:
        """Return a new tensor with a box of one that lies in parts; only files with something of it are read."""
        made = torch.empty(box.shape, dtype=dtype_named(whole.dtype))
        for part in whole.parts if made.numel() else ():
            first = tuple(map(max, part.offset, box.offset))
            ends = [
                min(a + n, b + m) for a, n, b, m in zip(part.offset, part.shape, box.offset, box.shape, strict=True)
            ]
            common = tuple(end - start for start, end in zip(first, ends, strict=True))
            if any(size <= 0 for size in common):
                continue
            there = Box(tuple(a - b for a, b in zip(first, part.offset, strict=True)), common, 0)
            here = Box(tuple(a - b for a, b in zip(first, box.offset, strict=True)), common, 0)
            copy_bits(part_of(made, here), part_of(self._stored_part(file, key, whole, part), there))
        return made

    def _stored_part(self, file: str, key: str, whole: ShardedTensor, part: Part) -> torch.Tensor:
        found = self.tensor(part.file, part.key)
        kind = dtype_named(whole.dtype)
        if DTYPES[whole.dtype].safetensors is None and found.dtype == torch.uint8:
            if found.numel() == element_count(part.shape) * DTYPES[whole.dtype].itemsize:
                return found.clone().view(kind).reshape(part.shape)
        elif found.dtype == kind and tuple(found.shape) == part.shape:
            return found
        raise UnreadableFile(f"{file}: the part of {ascii(key)[:80]} in {part.file} is not what it says")

    def _sharded(self, file: str) -> Mapping[str, ShardedTensor]:
        if file not in self._shards:
            self._shards[file] = parse_shards(file, bytes(view_of(self.bytes_of(file))))
        return self._shards[file]

    def _sharded_tensor(self, file: str, key: str) -> ShardedTensor:
        found = self._sharded(file).get(key)
        if found is None:
            raise UnreadableFile(f"{file} has no tensor {ascii(key)[:80]}")
        boxes = [_assembled.Box(part.offset, part.shape, _never) for part in found.parts]
        problem = _assembled.check_tiling(found.shape, boxes)
        if problem:
            raise UnreadableFile(f"{file}: {ascii(key)[:80]}: {problem}")
        return found

    def referred(self, reference: Reference, like: object = None) -> torch.Tensor:
        """Return a new tensor of its own, as the reference says it was; sharded where it is and `like` is."""
        if is_sharded(like) and is_shards(reference.file):
            return self.tensor(reference.file, reference.key, like)
        found = self.tensor(reference.file, reference.key)
        if reference.dtype is not None:
            shape = reference.shape or ()
            if found.dtype != torch.uint8 or found.numel() != element_count(shape) * DTYPES[reference.dtype].itemsize:
                raise UnreadableFile(f"{reference.key}: its bytes are not {reference.dtype} {list(shape)}")
            if reference.quantizer is not None:
                return quantized(found, reference)
            kind = dtype_named(reference.dtype)
            found = found.clone().view(kind).reshape(shape) if found.numel() else torch.empty(shape, dtype=kind)
        if reference.stride is not None:
            if len(reference.stride) != found.dim() or not is_dense(tuple(found.shape), reference.stride):
                raise UnreadableFile(f"{reference.key}: a stride that does not fit its shape")
            own = torch.empty_strided(tuple(found.shape), reference.stride, dtype=found.dtype)
        else:
            own = torch.empty(tuple(found.shape), dtype=found.dtype)
        if own.numel():
            copy_bits(own, found)
        own = on_device(own, reference.device)
        if reference.parameter:
            return torch.nn.Parameter(own, requires_grad=reference.requires_grad)
        return own.requires_grad_() if reference.requires_grad else own

    def make_like(self, like: object) -> Callable[[str, Json], object]:
        """Return `make` for values that belong to a tensor: what has its shape is sharded as it is."""
        if not is_sharded(like):
            return self.make

        def make(tag: str, value: Json) -> object:
            if tag != "$tensor":
                return self.make(tag, value)
            found = self.referred(parse_reference(value), like)
            return found if is_sharded(found) or not found.dim() else _shard(found, like)

        return make

    def make(self, tag: str, value: Json) -> object:
        """Make what a tag of a value stands for; see `rekindle.store.plain.decode`."""
        fields = value if isinstance(value, dict) else {}
        match tag:
            case "$tensor":
                return self.referred(parse_reference(value))
            case "$Size":
                return torch.Size(int(str(size)) for size in items_of(fields[tag]))
            case "$dtype":
                return dtype_named(str(fields[tag]))
            case "$device":
                return torch.device(str(fields[tag]))
            case "$sparse":
                return self._sparse(fields)
            case "$array":
                return self._array(value)
            case "$scalar":
                numpy = _numpy()
                kind = _numpy_dtype(fields[tag])
                return numpy.frombuffer(bytes.fromhex(str(fields["bytes"])), dtype=kind)[0]
        raise UnreadableFile(f"{ascii(tag)[:40]} is not a value that this rekindle knows")

    def _array(self, value: Json) -> object:
        reference = parse_reference(value, "$array")
        data = self.tensor(reference.file, reference.key)
        found = _numpy().frombuffer(bytearray(view_of(data)), dtype=_numpy_dtype(reference.dtype))
        return found.reshape(reference.shape)

    def _sparse(self, fields: Mapping[str, Json]) -> torch.Tensor:
        parts = fields["parts"]
        if not isinstance(parts, dict):
            raise UnreadableFile("a sparse tensor without parts")
        tensors = {name: self.referred(parse_reference(part)) for name, part in parts.items()}
        shape = torch.Size(int(str(size)) for size in items_of(fields["shape"]))
        layout = str(fields["$sparse"])
        # A hostile snapshot could name indices outside the shape.
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call] # torch gives it no types
            if layout == "sparse_coo":
                made = torch.sparse_coo_tensor(
                    tensors["indices"], tensors["values"], shape, is_coalesced=fields.get("coalesced") is True
                )
            else:
                row = "crow_indices" if layout in {"sparse_csr", "sparse_bsr"} else "ccol_indices"
                column = "col_indices" if row == "crow_indices" else "row_indices"
                kind = {name: getattr(torch, name) for name in _COMPRESSED}[layout]
                made = torch.sparse_compressed_tensor(
                    tensors[row], tensors[column], tensors["values"], shape, layout=kind
                )
        return made

    def _shard_of(self, file: str) -> Mapping[str, str]:
        """Return key -> file where `file` is an index; nothing where it is a safetensors file itself."""
        if not is_index(file):
            return {}
        if file not in self._indices:
            self._indices[file] = parse_index(file, bytes(view_of(self.bytes_of(file))))
        return self._indices[file]

    def _header(self, file: str) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
        """Return key -> (dtype, shape, first byte, end) of a safetensors file, every range inside it."""
        if file not in self._headers:
            self._headers[file] = _read_header(file, self.bytes_of(file))
        return self._headers[file]


def _shard(whole: torch.Tensor, like: Any) -> torch.Tensor:
    """Return a tensor as `like` is sharded; one of another shape, every process has all of."""
    if whole.shape != like.shape:
        return sharded_like(whole, like, shape=tuple(whole.shape))
    return sharded_like(part_of(whole, own_box(like)).detach().clone(), like)


def _never(start: tuple[int, ...], sizes: tuple[int, ...]) -> Any:
    raise AssertionError((start, sizes))


def _read_header(file: str, data: torch.Tensor) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    view = view_of(data)
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or length > min(len(view) - 8, _HEADER_LIMIT_BYTES):
        raise UnreadableFile(f"{file} is not a safetensors file")
    try:
        header = json.loads(bytes(view[8 : 8 + length]))
        found = {}
        for key, entry in header.items():
            if key == "__metadata__":
                continue
            dtype = DTYPE_OF_SAFETENSORS[entry["dtype"]].name
            shape = tuple(entry["shape"])
            start, end = entry["data_offsets"]
            numbers = (*shape, start, end)
            fits = all(type(number) is int and 0 <= number < 2**62 for number in numbers)
            if not fits or len(shape) > 64 or end - start != element_count(shape) * DTYPES[dtype].itemsize:
                raise UnreadableFile(f"{file}: {ascii(key)[:80]} is not what its header says")
            if not 0 <= start <= end <= len(view) - 8 - length:
                raise UnreadableFile(f"{file}: {ascii(key)[:80]} lies outside the file")
            found[key] = (dtype, shape, 8 + length + start, 8 + length + end)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UnreadableFile):
            raise
        raise UnreadableFile(f"{file}: its header is not one of safetensors") from None
    return found


def _numpy() -> Any:
    try:
        import numpy  # noqa: ICN001, PLC0415 - only where a snapshot holds arrays
    except ImportError:
        raise StateMismatch(
            "the snapshot holds NumPy arrays, and NumPy is not installed", do="pip install numpy"
        ) from None
    return numpy


def _numpy_dtype(name: Json) -> Any:
    kind = _numpy().dtype(str(name))
    if kind.kind not in "biufcSUMm":
        raise UnreadableFile(f"{ascii(str(name))[:40]} is not a type of elements")
    return kind


def damaged(path: str, reason: str) -> SnapshotDamaged:
    """Return the error for a snapshot that cannot be used."""
    return SnapshotDamaged(f"{path}: {reason}", do="launch again: the newest snapshot that holds is taken")


def or_damaged(path: str, work: Callable[[], Any]) -> Any:
    """Do some reading; whatever the bytes make it raise is one error of ours."""
    try:
        return work()
    except UnreadableFile as error:
        raise damaged(path, error.what) from None
    except RekindleError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, OverflowError) as error:
        raise damaged(
            path, f"it cannot be read: {str(error).splitlines()[0][:200] if str(error) else error!r}"
        ) from error
