"""A snapshot of a run: a folder that its manifest vouches for, read without torch.

The object is a dict of what was tracked, by its name: a module is its state dict, an optimizer its state by parameter
name and its groups, everything else its own state; ``run`` is what the run itself keeps (step, epoch, counters), and
``non_persistent`` holds the buffers that a state dict leaves out. Keys that were tied to one tensor share a storage
again. Every file is compared with its SHA-256 first, so what is listed is what was saved.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rekindle.errors import RekindleError, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Member, Opened
from rekindle.source import BufferBytes, Source
from rekindle.tensors import DTYPES, Storage, TensorTable, contiguous_stride, element_count
from rekindle.tree import Global, Map, Record, SparseTensor, Tensor, Value

if TYPE_CHECKING:
    from rekindle.store.manifest import Manifest
    from rekindle.store.plain import Json
    from rekindle.store.shards import ShardedTensor
    from rekindle.store.state import Entry, ModuleEntry, OptimizerEntry, State

__all__ = ["NAME", "read_folder", "sniff_folder"]

NAME = "snapshot"

_NUMPY_DTYPES = {
    "<f8": "float64",
    "<f4": "float32",
    "<f2": "float16",
    "<i8": "int64",
    "<i4": "int32",
    "<i2": "int16",
    "|i1": "int8",
    "|u1": "uint8",
    "|b1": "bool",
    "<u2": "uint16",
    "<u4": "uint32",
    "<u8": "uint64",
    "<c8": "complex64",
    "<c16": "complex128",
}


def sniff_folder(path: str) -> bool:
    """Tell whether a folder is a snapshot, or was one."""
    from rekindle.store.layout import is_snapshot_folder  # noqa: PLC0415 - only folders need the store

    return is_snapshot_folder(path)


def read_folder(path: str, limits: Limits = DEFAULT_LIMITS, *, verified: bool = False) -> Opened:
    """Verify a snapshot and read it.

    Args:
        path: the folder.
        limits: what is opened at most.
        verified: it was verified a moment ago, and held.

    Returns:
        What was tracked; with a finding of severity error where the manifest does not vouch for what is there.

    Raises:
        OSError: the folder cannot be read.
    """
    from rekindle.store.manifest import read_manifest, verify  # noqa: PLC0415

    damage = None if verified else verify(path)
    findings: list[Finding] = []
    if damage is not None:
        findings.append(
            Finding(
                "RK-FILE-38",
                "damaged-snapshot",
                Severity.ERROR,
                f"{path}: {damage.reason}",
                why="it was changed after it was saved, or the disk lost what it had confirmed",
                do=f"rekindle inspect {os.path.dirname(os.path.dirname(os.path.abspath(path)))}",
                where=Where(member=damage.file),
            )
        )
    try:
        manifest = read_manifest(path)
        files = _Files(path, manifest, limits, findings)
        try:
            return _opened(path, manifest, files, findings, limits)
        except BaseException:
            files.close()
            raise
    except RekindleError as error:
        if damage is None:
            findings.append(
                Finding("RK-FILE-38", "damaged-snapshot", Severity.ERROR, f"{path}: {error.what}", error.why, error.do)
            )
        return Opened(path, NAME, 0, None, TensorTable(()), tuple(findings), listed=False)


def _opened(path: str, manifest: Manifest, files: _Files, findings: list[Finding], limits: Limits) -> Opened:
    from rekindle.listing import table_of  # noqa: PLC0415
    from rekindle.store.layout import STATE_NAME  # noqa: PLC0415
    from rekindle.store.state import decode_state  # noqa: PLC0415

    state = decode_state(files.content(STATE_NAME))
    tree = _tree_of(state, files)
    table, found = table_of(tree, limits)
    facts: dict[str, object] = {
        "step": manifest.step,
        "tracked": {
            name: {"kind": getattr(entry, "kind", "") or _kind(entry), "class": entry.class_name}
            for name, entry in state.tracked.items()
        },
        "manifest": manifest.facts,
    }
    return Opened(
        path,
        NAME,
        manifest.size_bytes,
        tree,
        table,
        (*findings, *found),
        tuple(files.members),
        facts,
        files.close,
    )


def _kind(entry: Entry) -> str:
    return "module" if hasattr(entry, "tied") else "optimizer"


class _Files:
    """The files of a snapshot, opened when first needed; links are not followed."""

    def __init__(self, path: str, manifest: Manifest, limits: Limits, findings: list[Finding]) -> None:
        self.path = path
        self.manifest = manifest
        self.limits = limits
        self.findings = findings
        self.members: list[Member] = []
        self._sources: list[Source] = []
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _open(self, file: str) -> Source:
        if file not in self.manifest.files:
            raise UnreadableFile(f"{file} is not among its files")
        try:
            source = Source(os.path.join(self.path, file), follow=False)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:  # gone, or a link in its place: the snapshot is damaged
                raise UnreadableFile(f"{file} cannot be opened: {error.strerror}") from error
            raise
        self._sources.append(source)
        self.members.append(Member(file, source.range(0, source.size)))
        return source

    def content(self, file: str) -> bytes:
        source = self._open(file)
        if source.size > self.limits.header_bytes:
            raise UnreadableFile(f"{file} has {source.size:,} bytes, more than Limits.header_bytes")
        return source.read(0, source.size)

    def tensors(self, file: str) -> dict[str, Tensor]:
        """Return the tensors of a safetensors file by key; of an index those of its files, of shards what they make."""
        from rekindle.store.shards import is_shards, parse_shards  # noqa: PLC0415
        from rekindle.store.state import is_index, parse_index  # noqa: PLC0415

        if is_index(file):
            return {key: self.tensor(part, key) for key, part in parse_index(file, self.content(file)).items()}
        if file not in self._tensors and is_shards(file):
            whole = parse_shards(file, self.content(file))
            self._tensors[file] = {key: self._assembled(file, key, tensor) for key, tensor in whole.items()}
        if file not in self._tensors:
            from rekindle.formats import safetensors  # noqa: PLC0415

            source = self._open(file)
            if not safetensors.sniff(source.head(16), source):
                raise UnreadableFile(f"{file} is not a safetensors file")
            opened = safetensors.read(source, self.limits)
            self.findings.extend(opened.findings)
            found: dict[str, Tensor] = {}
            for key, tensor in opened.tree.pairs if isinstance(opened.tree, Map) else ():
                if isinstance(key, str) and isinstance(tensor, Tensor):
                    tensor.storage.id = f"{file}#{key}"
                    found[key] = tensor
            self._tensors[file] = found
        return self._tensors[file]

    def tensor(self, file: str, key: str) -> Tensor:
        tensor = self.tensors(file).get(key)
        if tensor is None:
            raise UnreadableFile(f"{file} has no tensor {key[:80]!r}")
        return tensor

    def _assembled(self, file: str, key: str, whole: ShardedTensor) -> Tensor:
        """Return a tensor that lies in parts; they are put together while it is read."""
        from rekindle.formats._assembled import Assembled, Box, PartReader, check_tiling  # noqa: PLC0415

        itemsize = DTYPES[whole.dtype].itemsize
        storage = Storage(f"{file}#{key}", element_count(whole.shape) * itemsize, None)
        tensor = Tensor(storage, whole.dtype, 0, whole.shape, contiguous_stride(whole.shape))
        boxes = []
        for part in whole.parts:
            stored = self.tensor(part.file, part.key)
            if stored.storage.size_bytes != element_count(part.shape) * itemsize:
                raise UnreadableFile(f"{file}: the part of {key[:80]!r} in {part.file} is not what it says")
            # Of a type that safetensors lacks, the file has the bytes.
            typed = Tensor(stored.storage, whole.dtype, 0, part.shape, contiguous_stride(part.shape))
            boxes.append(Box(part.offset, part.shape, PartReader(typed, (0,) * len(part.shape))))
        problem = check_tiling(whole.shape, boxes)
        if problem:
            self.findings.append(
                Finding(
                    "RK-FILE-47",
                    "incomplete-tensor",
                    Severity.ERROR,
                    f"{key}: {problem}",
                    why="the file that says where parts lie does not fit them",
                    where=Where(member=file, key=key),
                )
            )
        else:
            storage.data = Assembled(whole.shape, itemsize, tuple(boxes))
        return tensor

    def leaf(self, tag: str, fields: dict[str, Json]) -> Value:
        """Return what a tag of a value stands for."""
        match tag:
            case "$tensor":
                return self._referred(fields)
            case "$array":
                return self._array(fields)
            case "$scalar":
                return _scalar(fields)
            case "$sparse":
                return self._sparse(fields)
        raise UnreadableFile(f"{tag[:40]!r} is not a value that this rekindle knows")

    def _referred(self, fields: dict[str, Json]) -> Tensor:
        from rekindle.store.state import parse_reference  # noqa: PLC0415

        reference = parse_reference(fields)
        found = self.tensor(reference.file, reference.key)
        dtype = reference.dtype or found.dtype
        shape = found.shape if reference.shape is None else reference.shape
        if element_count(shape) * DTYPES[dtype].itemsize != found.storage.size_bytes:
            raise UnreadableFile(f"{reference.key}: its bytes are not {dtype} {list(shape)}")
        storage = Storage(found.storage.id, found.storage.size_bytes, found.storage.data, reference.device)
        tensor = Tensor(storage, dtype, 0, shape, contiguous_stride(shape), reference.requires_grad)
        tensor.parameter = reference.parameter
        if reference.quantizer is not None:
            from rekindle.store.plain import to_tree  # noqa: PLC0415

            scheme = to_tree(reference.quantizer, self.leaf)
            if isinstance(scheme, list):
                tensor.quantizer = _quantizer(scheme, storage.id)
        return tensor

    def _array(self, fields: dict[str, Json]) -> Value:
        from rekindle.store.state import parse_reference  # noqa: PLC0415

        reference = parse_reference(fields, "$array")
        found = self.tensor(reference.file, reference.key)
        dtype = _NUMPY_DTYPES.get(reference.dtype or "")
        shape = reference.shape or ()
        if dtype is None or element_count(shape) * DTYPES[dtype].itemsize != found.storage.size_bytes:
            return found
        return Tensor(found.storage, dtype, 0, shape, contiguous_stride(shape))

    def _sparse(self, fields: Mapping[str, Json]) -> Value:
        parts, shape = fields.get("parts"), fields.get("shape")
        if not isinstance(parts, dict) or not isinstance(shape, list):
            raise UnreadableFile("a sparse tensor without parts")
        tensors = {name: self._referred(part) for name, part in parts.items() if isinstance(part, dict)}
        sizes = tuple(size for size in shape if isinstance(size, int))
        return SparseTensor(str(fields["$sparse"]), sizes, tensors, fields.get("coalesced") is True)


def _quantizer(scheme: list[Value], id: str) -> tuple[Value, ...]:
    """Return a quantizer as the tree has it: numbers of each channel are tensors."""
    if len(scheme) != 5 or scheme[0] != "per_channel_affine":
        return tuple(scheme)
    _, scales, zero_points, axis, dtype = scheme
    return (
        "per_channel_affine",
        _numbers(scales, "float64", f"{id}.scales"),
        _numbers(zero_points, "int64" if dtype == "int64" else "float32", f"{id}.zero_points"),
        axis,
    )


def _numbers(values: Value, dtype: str, id: str) -> Value:
    """Return a list of numbers as a tensor."""
    import struct  # noqa: PLC0415

    if not isinstance(values, list) or not all(isinstance(value, (int, float)) for value in values):
        raise UnreadableFile("a quantizer whose numbers are none")
    data = struct.pack(f"<{len(values)}" + {"float64": "d", "int64": "q", "float32": "f"}[dtype], *values)
    storage = Storage(id, len(data), BufferBytes(memoryview(data)))
    return Tensor(storage, dtype, 0, (len(values),), (1,))


def _scalar(fields: Mapping[str, Json]) -> Value:
    import struct  # noqa: PLC0415

    kinds = {"<f8": "<d", "<f4": "<f", "<f2": "<e", "<i8": "<q", "<i4": "<i", "<i2": "<h", "|i1": "b", "|u1": "B"}
    kinds |= {"|b1": "?", "<u2": "<H", "<u4": "<I", "<u8": "<Q"}
    dtype, data = str(fields["$scalar"]), bytes.fromhex(str(fields.get("bytes")))
    if dtype in kinds and len(data) == struct.calcsize(kinds[dtype]):
        number: bool | int | float = struct.unpack(kinds[dtype], data)[0]
        return number
    return Record(Global("numpy", "frombuffer"), (data, dtype))


def _tree_of(state: State, files: _Files) -> Map:
    from rekindle.store.plain import to_tree  # noqa: PLC0415
    from rekindle.store.state import ModuleEntry, OptimizerEntry  # noqa: PLC0415

    tree = Map()
    left_out = Map()
    for name, entry in state.tracked.items():
        if isinstance(entry, ModuleEntry):
            tree.pairs.append((name, _module_tree(entry, files)))
            buffers: list[tuple[Value, Value]] = [
                (key, to_tree(value, files.leaf)) for key, value in entry.non_persistent.items()
            ]
            if buffers:
                left_out.pairs.append((name, Map(buffers)))
        elif isinstance(entry, OptimizerEntry):
            tree.pairs.append((name, _optimizer_tree(entry, files)))
        else:
            tree.pairs.append((name, to_tree(entry.state, files.leaf)))
    if left_out.pairs:
        tree.pairs.append((_free("non_persistent", state), left_out))
    tree.pairs.append((_free("run", state), to_tree(state.extra, files.leaf)))
    return tree


def _free(name: str, state: State) -> str:
    """Return a name that nothing tracked has."""
    while name in state.tracked:
        name = f"rekindle_{name}"
    return name


def _module_tree(entry: ModuleEntry, files: _Files) -> Map:
    from rekindle.store.plain import to_tree  # noqa: PLC0415

    tensors = files.tensors(entry.file)
    pairs: list[tuple[Value, Value]] = []
    made: dict[str, Tensor] = {}
    for key in entry.keys:
        if key in entry.elsewhere:
            pairs.append((key, to_tree(entry.elsewhere[key], files.leaf)))
            continue
        if key not in tensors:
            raise UnreadableFile(f"{entry.file} has no tensor {key[:80]!r}")
        made[key] = tensors[key]
        pairs.append((key, tensors[key]))
    for first, *others in entry.tied:
        for other in others:
            if first in made and other in made and made[other].storage.size_bytes == made[first].storage.size_bytes:
                made[other].storage = made[first].storage
    return Map(pairs, "OrderedDict")


def _optimizer_tree(entry: OptimizerEntry, files: _Files) -> Map:
    from rekindle.store.plain import to_tree  # noqa: PLC0415

    states = Map()
    groups: list[Value] = []
    for number, group in enumerate(entry.groups):
        names: list[Value] = []
        for position, (name, state) in enumerate(zip(group.params, group.state, strict=True)):
            label = name or f"group{number}.param{position}"
            names.append(label)
            if state is not None:
                states.pairs.append((label, to_tree(state, files.leaf)))
        settings = to_tree(group.settings, files.leaf)
        pairs = list(settings.pairs) if isinstance(settings, Map) else []
        groups.append(Map([*pairs, ("params", names)]))
    tree = Map([("state", states), ("param_groups", groups)])
    other = to_tree(entry.other, files.leaf)
    if isinstance(other, Map):
        tree.pairs.extend(pair for pair in other.pairs if pair[0] not in {"state", "param_groups"})
    return tree
