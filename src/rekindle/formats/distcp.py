"""Folders of torch.distributed.checkpoint: the pieces of every rank, and a description of the whole.

``.metadata`` is a pickle of dataclasses: which tensors there are, in which boxes of indices they were saved, and which
item (file, first byte, length) holds which box. It is run as symbols here; torch runs it for real. Each item in a
``.distcp`` file is a whole `torch.save` archive, so with the description lost every item can still be listed, only
nameless. A tensor of several boxes is put together while it is read (`_assembled`), in bounded memory. The description
is written last: a folder without one was not saved to its end.

With the Hugging Face writer there is no description; each ``shard-...safetensors`` says in its header where its boxes
belong (``DCP_SHARDING_INFO``), but nowhere how large the whole is. That writer also puts objects in front of a file's
header, which makes it unreadable for everything else; here they are found and taken apart.

Facts: PyTorch 2.13 `torch/distributed/checkpoint/{metadata,filesystem,default_planner,_traverse,hf_storage,
_hf_utils}.py`; damage of the Hugging Face writer: seen with 2.13 and 2.15.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Severity
from rekindle.formats._archive_storages import settle_storages, within
from rekindle.formats._assembled import Assembled, Box, PartReader, check_tiling
from rekindle.formats._folders import Folder, cut_list, opened_folder
from rekindle.formats._items import ItemTensor, looks_whole, open_item, walk_items
from rekindle.formats._sources import PooledSource, WindowSource
from rekindle.formats._values import attributes_of, count_of, dtype_of, natural_key, shape_of
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import Bytes, Source
from rekindle.tensors import DTYPES, Storage, TensorTable, contiguous_stride, element_count
from rekindle.tree import Map, Record, Tensor, Value

__all__ = ["NAME", "read", "read_folder", "sniff", "sniff_folder"]

NAME = "distcp"

_METADATA = ".metadata"
_RANK_METADATA = re.compile(r"^__(\d+)\.metadata$")
_SHARD = re.compile(r"^shard-\d+-model-\d+-of-\d+\.safetensors$")
_MAX_FILES = 100_000
# The three records that close an archive of torch: zip64 end, its locator, end.
_END_BYTES = 56 + 20 + 22
# A list in a path is as long as its largest index says; no honest one is longer than this times its entries.
_MAX_GAPS = 64


def sniff(head: bytes, source: Source) -> bool:
    """Tell whether a file is several archives one after another: a file of pieces, given without its folder.

    The last archive ends the file, and its directory says that it begins where the file does; it cannot, where others
    stand in front. A single archive is a `torch.save` file like any other.
    """
    if not head.startswith(b"PK\x03\x04") or source.size < _END_BYTES:
        return False
    tail = source.read(source.size - _END_BYTES, _END_BYTES)
    if tail[:4] != b"PK\x06\x06" or tail[76:80] != b"PK\x05\x06":
        return False
    size, offset = int.from_bytes(tail[40:48], "little"), int.from_bytes(tail[48:56], "little")
    return source.size - _END_BYTES - size - offset > 0


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read a file of pieces by itself: its items in order, without names.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    path, name = os.path.split(source.path)
    folder = Folder(path or ".", limits)  # nothing of it is opened
    folder.add(
        "RK-FILE-45",
        "missing-metadata",
        Severity.WARNING,
        f"{source.path}: several torch.save archives in one file; they are listed without their names",
        "torch.distributed.checkpoint keeps what a rank has in such files, and the names in .metadata beside them",
        f"rekindle inspect {path or '.'}",
        member=name,
    )
    values, end = _items_of(folder, source, name)
    if end < source.size:
        _report_rest(folder, name, end, source.size)
    opened = _opened(folder, Map(list(enumerate(values))), {"files": [name]})
    return replace(opened, path=source.path, size_bytes=source.size, close_files=source.close)


def sniff_folder(path: str) -> bool:
    """Tell whether a folder has a description, pieces of ranks, or shards of the Hugging Face writer."""
    names = _names(path)
    return any(
        name == _METADATA or name.endswith(".distcp") or _RANK_METADATA.match(name) or _SHARD.match(name)
        for name in names
    )


def read_folder(path: str, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read the description of a folder and check that its items are there; no element is read.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
        OSError: the folder may not be read.
    """
    with Folder(path, limits) as folder:
        names = _names(path)
        pieces = [name for name in names if name.endswith(".distcp")]
        shards = [name for name in names if _SHARD.match(name)]
        descriptions = [name for name in names if name == _METADATA] or sorted(
            (name for name in names if _RANK_METADATA.match(name)), key=natural_key
        )
        facts: dict[str, object] = {"files": pieces or shards}
        if shards and not pieces:
            values = _read_shards(folder, shards)
            return _opened(folder, values, facts)
        described = _Description()
        for name in descriptions:
            _read_description(folder, name, described)
        if described.read:
            values = _described_values(folder, described, pieces)
            facts |= described.facts
        else:
            _report_lost(folder, descriptions, pieces)
            values = _nameless_values(folder, pieces)
        return _opened(folder, values, facts)


def _names(path: str) -> list[str]:
    names: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) >= _MAX_FILES:
                break
    return sorted(names, key=natural_key)


def _opened(folder: Folder, tree: Map, facts: dict[str, object]) -> Opened:
    from rekindle.listing import table_of  # noqa: PLC0415

    table, found = table_of(tree, folder.limits) if tree.pairs else (TensorTable(()), [])
    folder.findings.extend(found)
    return opened_folder(folder, NAME, tree, table, facts, listed=bool(tree.pairs))


# --- the description -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an item lies."""

    file: str
    offset: int
    length: int
    transforms: tuple[str, ...]


@dataclass(slots=True)
class _Whole:
    """One tensor as described: its type, its shape, and the boxes it was saved in."""

    dtype: str
    shape: tuple[int, ...]
    boxes: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)  # offsets -> sizes


@dataclass(slots=True)
class _Description:
    """What the descriptions of a folder say together."""

    read: bool = False
    order: dict[str, None] = field(default_factory=dict)
    tensors: dict[str, _Whole] = field(default_factory=dict)
    paths: dict[str, tuple[str | int, ...]] = field(default_factory=dict)
    places: dict[tuple[str, tuple[int, ...] | None], _Place] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)


def _read_description(folder: Folder, name: str, described: _Description) -> None:
    from rekindle.unpickling.machine import run_program  # noqa: PLC0415

    source = folder.source(name)
    if source is None:
        return
    if source.size > folder.limits.pickle_bytes:
        raise LimitExceeded(
            f"{source.path} has {source.size:,} bytes",
            why=f"reading is bounded by Limits.pickle_bytes = {folder.limits.pickle_bytes:,}",
            do="raise Limits.pickle_bytes if you trust this folder",
        )
    try:
        outcome = run_program(source.read(0, source.size), limits=folder.limits)
    except LimitExceeded:
        raise
    except UnreadableFile as error:
        _odd(folder, name, f"{name} is broken: {error.what.removeprefix(source.path + ': ')}", error.why)
        return
    folder.findings.extend(outcome.findings)
    fields = attributes_of(outcome.value)
    tensors, places = fields.get("state_dict_metadata"), fields.get("storage_data")
    if not isinstance(tensors, Map) or not isinstance(places, Map):
        _odd(folder, name, f"{name} describes no checkpoint", "another program wrote it")
        return
    described.read = True
    for key, value in tensors.pairs:
        if isinstance(key, str):
            described.order[key] = None
            _read_whole(folder, name, key, value, described)
    for index, value in places.pairs:
        _read_place(folder, name, index, value, described)
    paths = fields.get("planner_data")
    for key, path in paths.pairs if isinstance(paths, Map) else ():
        if isinstance(key, str) and isinstance(path, (tuple, list)):
            parts = tuple(part for part in path if isinstance(part, (str, int)))
            if parts and len(parts) == len(path):
                described.paths[key] = parts
    version = fields.get("version")
    if isinstance(version, str):
        described.facts["version"] = version


def _odd(folder: Folder, name: str, what: str, why: str = "", key: str | None = None) -> None:
    folder.add("RK-FILE-46", "broken-metadata", Severity.ERROR, what, why, member=name, key=key)


def _read_whole(folder: Folder, name: str, key: str, value: Value, described: _Description) -> None:
    """Note what is said of one tensor; objects that are no tensors have no description of their own."""
    fields = attributes_of(value)
    if "chunks" not in fields:
        return
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, Record) else None
    kind = dtype_of(state[0]) if isinstance(state, (tuple, list)) and state else None
    if kind is None:
        kind = dtype_of(attributes_of(properties).get("dtype"))
    shape, chunks = shape_of(fields.get("size"), folder.limits), fields.get("chunks")
    if kind is None or shape is None or not isinstance(chunks, list):
        _odd(folder, name, f"{key}: its element type, shape or pieces are not described as torch does", key=key)
        return
    whole = described.tensors.setdefault(key, _Whole(kind, shape))
    if (whole.dtype, whole.shape) != (kind, shape):
        _odd(
            folder,
            name,
            f"{key}: two descriptions differ: {kind} {list(shape)} and {whole.dtype} {list(whole.shape)}",
            "files of two saves were mixed",
            key,
        )
        return
    for chunk in chunks:
        part = attributes_of(chunk)
        offsets, sizes = shape_of(part.get("offsets"), folder.limits), shape_of(part.get("sizes"), folder.limits)
        if offsets is None or sizes is None:
            _odd(folder, name, f"{key}: one of its pieces is not described as torch does", key=key)
            continue
        whole.boxes.setdefault(offsets, sizes)


def _read_place(folder: Folder, name: str, index: Value, value: Value, described: _Description) -> None:
    said, place = attributes_of(index), attributes_of(value)
    key, file = said.get("fqn"), place.get("relative_path")
    offset, length = count_of(place.get("offset")), count_of(place.get("length"))
    at = shape_of(said.get("offset"), folder.limits) if said.get("offset") is not None else None
    if not isinstance(key, str) or not isinstance(file, str) or offset is None or length is None:
        _odd(folder, name, f"an entry of {name} does not say where its item lies")
        return
    transforms = place.get("transform_descriptors")
    named = tuple(str(part)[:80] for part in transforms) if isinstance(transforms, (list, tuple)) else ()
    described.places[key, at] = _Place(file, offset, length, named)


def _described_values(folder: Folder, described: _Description, pieces: Sequence[str]) -> Map:
    missing: dict[str, int] = {}
    values: dict[str, Value] = {}
    for key in described.order:
        whole = described.tensors.get(key)
        if whole is not None:
            values[key] = _tensor(folder, key, whole, described, missing)
        elif (key, None) in described.places:
            value, there = _object(folder, key, described.places[key, None], missing)
            if there:
                values[key] = value
        else:
            _odd(folder, _METADATA, f"{key}: no entry says where it lies", "the description was cut or edited", key)
    if missing:
        files = sorted(missing, key=natural_key)
        folder.add(
            "RK-FILE-40",
            "missing-shard",
            Severity.ERROR,
            f"{len(files):,} files are missing: {cut_list(files)}; {sum(missing.values()):,} pieces lie in them",
            "they are on another machine's disk, or were not copied",
            "copy the files of all nodes into one folder",
            member=files[0],
        )
    used = {place.file for place in described.places.values()}
    spare = [name for name in pieces if name not in used]
    if spare:
        folder.add(
            "RK-FILE-41",
            "index-disagrees",
            Severity.WARNING,
            f"{cut_list(spare)}: the description names no item in it",
            "an older save with more ranks or writers was not removed",
            member=spare[0],
        )
    return _nested(values, described.paths)


def _tensor(folder: Folder, key: str, whole: _Whole, described: _Description, missing: dict[str, int]) -> Tensor:
    size = element_count(whole.shape) * DTYPES[whole.dtype].itemsize
    storage = Storage(key, size, None)
    tensor = Tensor(storage, whole.dtype, 0, whole.shape, contiguous_stride(whole.shape))
    boxes: list[Box] = []
    items: list[ItemTensor] = []
    whole_items = True
    for offsets, sizes in whole.boxes.items():
        place = described.places.get((key, offsets)) or (
            described.places.get((key, None)) if len(whole.boxes) == 1 else None
        )
        item = _item(folder, key, place, whole.dtype, sizes, missing)
        if item is None:
            whole_items = False
        else:
            items.append(item)
            boxes.append(Box(offsets, sizes, item.read))
    problem = check_tiling(whole.shape, [Box(at, sizes, _nothing) for at, sizes in whole.boxes.items()])
    if problem:
        folder.add(
            "RK-FILE-47",
            "incomplete-tensor",
            Severity.ERROR,
            f"{key}: {problem}",
            "a rank did not save its part, or files of two saves were mixed",
            key=key,
        )
    elif whole_items:
        if len(items) == 1 and items[0].shape == whole.shape:
            storage.data = items[0]
        elif boxes or not size:
            storage.data = Assembled(whole.shape, DTYPES[whole.dtype].itemsize, tuple(boxes))
    return tensor


def _nothing(start: tuple[int, ...], sizes: tuple[int, ...]) -> Bytes:  # noqa: ARG001 - a box that is never read
    raise UnreadableFile("a piece that is not there")


def _item(
    folder: Folder, key: str, place: _Place | None, dtype: str, shape: tuple[int, ...], missing: dict[str, int]
) -> ItemTensor | None:
    """Return the tensor of an item, None (and a finding) where it is not there or cannot be whole."""
    source = _checked(folder, key, place, missing)
    if source is None or place is None:
        return None
    return ItemTensor(source, place.offset, place.length, dtype, shape, folder.limits)


def _checked(folder: Folder, key: str, place: _Place | None, missing: dict[str, int]) -> PooledSource | None:
    """Return the file of an item where it has it whole, as far as its first and last bytes tell."""
    if place is None:
        _odd(folder, _METADATA, f"{key}: no entry says where one of its pieces lies", key=key)
        return None
    if place.file in missing:
        missing[place.file] += 1
        return None
    source = folder.source(place.file)
    if source is None:
        if not folder.exists(place.file):
            missing[place.file] = missing.get(place.file, 0) + 1
        return None
    if place.transforms:
        folder.add(
            "RK-FILE-51",
            "not-listed",
            Severity.WARNING,
            f"{key}: its item was packed with {', '.join(place.transforms)}; its bytes are not read",
            "an extension of the writer compressed or changed them",
            member=place.file,
            key=key,
        )
        return None
    if not looks_whole(source, place.offset, place.length):
        folder.add(
            "RK-FILE-48",
            "damaged-part",
            Severity.ERROR,
            f"{key}: {place.file} has no whole item of {place.length:,} bytes at {place.offset:,}; "
            f"the file has {source.size:,}",
            "the file was cut short or overwritten, or belongs to another save",
            "copy it again from the node that wrote it",
            member=place.file,
            key=key,
        )
        return None
    return source


def _object(folder: Folder, key: str, place: _Place, missing: dict[str, int]) -> tuple[Value, bool]:
    """Return (an object that is no tensor, whether it could be read)."""
    source = _checked(folder, key, place, missing)
    if source is None:
        return None, False
    try:
        value, findings = open_item(source, place.offset, place.length, folder.limits)
    except LimitExceeded:
        raise
    except UnreadableFile as error:
        folder.add(
            "RK-FILE-48", "damaged-part", Severity.ERROR, f"{key}: {error.what}", error.why, member=place.file, key=key
        )
        return None, False
    folder.findings.extend(within(finding, place.file) for finding in findings)
    settle_storages(value, f"{place.file}:")
    return value, True


# --- the shape of the saved object -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """A dict or list while the object is put together; lists are dicts from index to value until the end."""

    parts: dict[str | int, _Node | _Leaf] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Leaf:
    value: Value


def _nested(values: Mapping[str, Value], paths: Mapping[str, tuple[str | int, ...]]) -> Map:
    """Return the object with its dicts and lists: a path part that is a number is an index into a list."""
    root = _Node()
    for key, value in values.items():
        path = paths.get(key, (key,))
        node = root
        for part in path[:-1]:
            child = node.parts.setdefault(part, _Node())
            if isinstance(child, _Leaf):
                node, path = root, (key,)  # two paths contradict each other: its own name is always free
                break
            node = child
        if path[-1] in node.parts:
            node, path = root, (key,)
        node.parts[path[-1]] = _Leaf(value)
    made = _finished(root)
    return made if isinstance(made, Map) else Map([("0", made)])


def _finished(root: _Node) -> Value:
    """Turn nodes into dicts and lists, the deepest first, without recursion: a file chooses the depth."""
    order: list[_Node] = []
    pending = [root]
    while pending:
        node = pending.pop()
        order.append(node)
        pending.extend(child for child in node.parts.values() if isinstance(child, _Node))
    made: dict[int, Value] = {}
    for node in reversed(order):
        parts = {
            part: child.value if isinstance(child, _Leaf) else made[id(child)] for part, child in node.parts.items()
        }
        numbers = [part for part in parts if isinstance(part, int)]
        last = max(numbers, default=-1)
        if len(numbers) == len(parts) and node is not root and min(numbers) >= 0 and last < _MAX_GAPS * len(parts):
            made[id(node)] = [parts.get(index) for index in range(last + 1)]
        else:
            made[id(node)] = Map(list(parts.items()))
    return made[id(root)]


# --- without a description -------------------------------------------------------------------------------------------


def _report_lost(folder: Folder, descriptions: Sequence[str], pieces: Sequence[str]) -> None:
    folder.add(
        "RK-FILE-45",
        "missing-metadata",
        Severity.ERROR,
        f"{folder.path}: {_METADATA} "
        + ("cannot be used" if descriptions else "is missing")
        + f"; the items of {len(pieces):,} files are listed without their names",
        "the save was interrupted (it is written last), or the folder was copied without hidden files"
        if not descriptions
        else "it is damaged",
        "look for it on the node of rank 0; without it, names and the order of pieces are not known",
        member=_METADATA,
    )


def _nameless_values(folder: Folder, pieces: Sequence[str]) -> Map:
    """Return file -> its items in order."""
    pairs: list[tuple[Value, Value]] = []
    for name in pieces:
        source = folder.source(name)
        if source is None:
            continue
        values, end = _items_of(folder, source, name)
        if end < source.size:
            _report_rest(folder, name, end, source.size)
        if values:
            pairs.append((name, values))
    return Map(pairs)


def _report_rest(folder: Folder, name: str, end: int, size: int) -> None:
    folder.add(
        "RK-FILE-48",
        "damaged-part",
        Severity.ERROR,
        f"{name}: no whole item begins at byte {end:,} of {size:,}",
        "the file was cut short, or is still being written",
        member=name,
    )


def _items_of(folder: Folder, source: Source, name: str) -> tuple[list[Value], int]:
    """Return the objects of the archives at the start of a file, and the byte behind the last one."""
    values: list[Value] = []
    end = 0
    for offset, size in walk_items(source, folder.limits):
        try:
            value, findings = open_item(source, offset, size, folder.limits)
        except LimitExceeded:
            raise
        except UnreadableFile as error:
            folder.add("RK-FILE-48", "damaged-part", Severity.ERROR, f"{name}: {error.what}", error.why, member=name)
            value, findings = None, []
        folder.findings.extend(within(finding, name) for finding in findings)
        settle_storages(value, f"{name}:")
        values.append(value)
        end = offset + size
    return values, end


# --- the Hugging Face writer -----------------------------------------------------------------------------------------


def _read_shards(folder: Folder, shards: Sequence[str]) -> Map:
    parts: dict[str, list[tuple[tuple[int, ...], Tensor]]] = {}
    objects: list[tuple[Value, Value]] = []
    described = 0
    for name in shards:
        opened = _open_shard(folder, name, objects)
        if opened is None or not isinstance(opened.tree, Map):
            continue
        metadata = opened.facts.get("metadata")
        offsets = _saved_offsets(metadata if isinstance(metadata, Mapping) else {}, folder.limits)
        described += offsets is not None
        for key, value in opened.tree.pairs:
            if isinstance(key, str) and isinstance(value, Tensor):
                at = (offsets or {}).get(key) or (0,) * len(value.shape)
                parts.setdefault(key, []).append((at, value))
    if not described and parts:
        folder.add(
            "RK-FILE-46",
            "broken-metadata",
            Severity.ERROR,
            "no shard says where its pieces belong (DCP_SHARDING_INFO); pieces of one name cannot be put together",
            "the headers were rewritten by another tool",
            member=shards[0],
        )
    elif parts:
        folder.add(
            "RK-FILE-49",
            "size-not-stated",
            Severity.NOTE,
            "the shards do not say how large the whole tensors are: a missing last shard would not be noticed",
            "the writer keeps only the position of each piece; every tensor is as large as its pieces reach",
        )
    pairs: list[tuple[Value, Value]] = [(key, _joined(folder, key, pieces)) for key, pieces in parts.items()]
    return Map([*pairs, *objects])


def _open_shard(folder: Folder, name: str, objects: list[tuple[Value, Value]]) -> Opened | None:
    """Read a shard; one with objects in front of its header is taken apart."""
    source = folder.source(name)
    if source is None or source.read(0, min(4, source.size)) != b"PK\x03\x04":
        return folder.open(name)
    from rekindle.formats import safetensors  # noqa: PLC0415

    values, end = _items_of(folder, source, name)
    if values:
        objects.append((name, values))
    header_follows = end + 9 <= source.size and source.read(end + 8, 1) == b"{"
    folder.add(
        "RK-FILE-50",
        "objects-in-front",
        Severity.ERROR,
        f"{name}: {len(values):,} objects stand in front of the header, which begins at byte {end:,} of "
        f"{source.size:,}; " + ("the tensors behind it are listed" if header_follows else "no header follows them"),
        "HuggingFaceStorageWriter of torch was given values that are no tensors: it reports success and writes this",
        "convert it; and save such values in a file of their own",
        member=name,
    )
    if not header_follows:
        return None
    opened = safetensors.read(WindowSource(source, end, source.size - end, name), folder.limits)
    folder.findings.extend(within(finding, name) for finding in opened.findings)
    settle_storages(opened.tree, f"{name}:")
    return opened


def _saved_offsets(metadata: Mapping[object, object], limits: Limits) -> dict[str, tuple[int, ...]] | None:
    """Return key -> position of its piece, as a header says; None where it does not."""
    text = metadata.get("DCP_SHARDING_INFO")
    if not isinstance(text, str):
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    offsets: dict[str, tuple[int, ...]] = {}
    for key, entry in said.items():
        at = shape_of(entry.get("saved_offsets"), limits) if isinstance(entry, dict) else None
        if at is not None:
            offsets[key] = at
    return offsets


def _joined(folder: Folder, key: str, pieces: list[tuple[tuple[int, ...], Tensor]]) -> Tensor:
    """Return the tensor that pieces of several files make."""
    distinct = dict(reversed(pieces))
    first = pieces[0][1]
    if len(distinct) == 1 and not any(next(iter(distinct))):
        return first
    dims = len(first.shape)
    alike = all(len(at) == dims == len(t.shape) and t.dtype == first.dtype for at, t in distinct.items())
    shape = (
        tuple(max(at[axis] + tensor.shape[axis] for at, tensor in distinct.items()) for axis in range(dims))
        if alike
        else first.shape
    )
    boxes = (
        [Box(at, tensor.shape, PartReader(tensor, (0,) * dims)) for at, tensor in sorted(distinct.items())]
        if alike
        else []
    )
    problem = check_tiling(shape, boxes) if alike else "its pieces differ in element type or number of dimensions"
    if element_count(shape) >= 2**59:
        problem = "its pieces reach further than any tensor"
    itemsize = DTYPES[first.dtype].itemsize
    storage = Storage(key, element_count(shape) * itemsize, None)
    if problem:
        folder.add(
            "RK-FILE-47",
            "incomplete-tensor",
            Severity.ERROR,
            f"{key}: {problem}",
            "a shard is missing, or shards of two saves were mixed",
            key=key,
        )
    elif all(tensor.storage.data is not None for tensor in distinct.values()):
        storage.data = Assembled(shape, itemsize, tuple(boxes))
    return Tensor(storage, first.dtype, 0, shape, contiguous_stride(shape))
