"""What `torch.save` wrote from 0.1.1 to 0.1.9: a tar archive of four members, none of which has a checksum.

``sys_info``, ``pickle``, ``tensors`` and ``storages``. Each of the last two begins with a pickled count and goes on
with one pickle and raw bytes per item: storages have an int64 element count and the elements; tensors have an int32
number of dimensions, 4 bytes of padding, int64 sizes, strides and an offset. A list of views closes ``storages``: (key,
key of the root, offset, elements). The object in ``pickle`` refers to tensors and storages by their key, as text or as
a number.

Facts: PyTorch 2.13 `torch/serialization.py` (`legacy_load`, which still reads it) and 0.1.9 (the writer); POSIX.1-1988
(ustar) for the archive.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from struct import Struct
from typing import TypeAlias

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._growing import run_growing
from rekindle.formats._sources import WindowSource, at_base
from rekindle.formats._storages import text_of
from rekindle.formats._values import count_of
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Member, Opened
from rekindle.source import ByteRange, Source
from rekindle.tensors import DTYPE_OF_STORAGE, DTYPES, DType, Storage, TensorTable, span_of
from rekindle.tree import Global, Record, StorageRef, Tensor, Value, lookup

__all__ = ["NAME", "read", "sniff"]

NAME = "torch-tar"

_NAMES = ("sys_info", "pickle", "tensors", "storages")
_BLOCK = 512
_INT4 = Struct("<i")
# Members of an archive of torch; what else lies in it is only listed.
_MAX_MEMBERS = 64
_SMALL_PICKLE = 4096

# Yields (the tuple of an item, the byte behind it), is sent where the item's raw bytes end.
_Items: TypeAlias = Generator[tuple[tuple[Value, ...], int], int, None]


def sniff(head: bytes, source: Source) -> bool:  # noqa: ARG001 - every format has the same two arguments
    """Tell whether the first member of a tar archive is one of torch's four."""
    return head[257:262] == b"ustar" and _name_of(head[:_BLOCK]) in _NAMES


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read the four members but for the elements.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    from rekindle.listing import table_of  # noqa: PLC0415

    findings: list[Finding] = []
    members = _read_members(source, findings)
    tree: Value = None
    table = TensorTable(())
    facts: dict[str, object] = {}
    listed = False
    missing = [name for name in _NAMES if name not in members]
    if missing:
        findings.append(
            _error(
                f"{source.path}: the archive has no {', '.join(missing)}; it has {', '.join(members) or 'nothing'}",
                "the file was cut short, or packed again by hand",
                source.size,
            )
        )
    elif (objects := _read_objects(members, limits, findings)) is not None:
        outcome = _read_pickle(members["pickle"], objects, limits, findings)
        if outcome is not None:
            tree, facts["protocol"] = outcome
            table, found = table_of(tree, limits)
            findings.extend(found)
            listed = True
        facts["byteorder"] = _byteorder(members["sys_info"], limits, findings)
    return Opened(
        source.path,
        NAME,
        source.size,
        tree,
        table,
        tuple(findings),
        tuple(Member(name, ByteRange(source, member.offset, member.size)) for name, member in members.items()),
        facts,
        source.close,
        listed=listed,
    )


def _error(what: str, why: str, offset: int | None = None, member: str | None = None) -> Finding:
    return Finding(
        "RK-FILE-55",
        "broken-tar",
        Severity.ERROR,
        what,
        why,
        "get the file again from its source",
        Where(member=member, offset=offset),
    )


def _name_of(header: bytes) -> str:
    return header[:100].split(b"\0", 1)[0].decode("utf-8", "replace").removeprefix("./")


def _read_members(source: Source, findings: list[Finding]) -> dict[str, WindowSource]:
    """Return the members in order; those that the end of the file cuts off are left out, with a finding."""
    members: dict[str, WindowSource] = {}
    at = 0
    while at + _BLOCK <= source.size and len(members) < _MAX_MEMBERS:
        header = source.read(at, _BLOCK)
        if not any(header):
            at += _BLOCK
            break
        name = _name_of(header)
        size = _octal(header[124:136])
        # The checksum counts its own eight bytes as spaces.
        if size is None or _octal(header[148:156]) != sum(header[:148]) + 8 * 32 + sum(header[156:]):
            findings.append(
                _error(f"the header of a member at byte {at:,} is damaged", "the file was overwritten or cut", at)
            )
            return members
        start, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        if header[156:157] not in {b"0", b"\0"}:
            continue  # folders, links, and headers that only describe the next member
        if start + size > source.size:
            findings.append(
                _error(
                    f"{name} should have {size:,} bytes, the file ends after {source.size - start:,} of them",
                    "the copy or the download stopped early",
                    start,
                    name,
                )
            )
            size = source.size - start
        if name in members:
            findings.append(
                Finding(
                    "RK-FILE-11",
                    "duplicate-member",
                    Severity.ERROR,
                    f"the archive has {name} twice; readers differ in which one they take, this listing has the first",
                    "archives with two readings are made to show one thing to a scanner and another to a loader",
                    where=Where(member=name, offset=start - _BLOCK),
                )
            )
            continue
        members[name] = WindowSource(source, start, size, name)
    _report_rest(source, at, findings)
    return members


def _report_rest(source: Source, at: int, findings: list[Finding]) -> None:
    """Report bytes behind the archive; tar itself pads it with zeros, up to 10,240 bytes."""
    while at < source.size:
        length = min(source.size - at, 64 * 1024)
        rest = source.read(at, length).lstrip(b"\0")
        if rest:
            findings.append(
                Finding(
                    "RK-FILE-15",
                    "trailing-bytes",
                    Severity.WARNING,
                    f"{source.size - at - length + len(rest):,} bytes follow the end of the archive",
                    "another file was appended, or an older and longer file was overwritten in place",
                    where=Where(offset=at + length - len(rest)),
                )
            )
            return
        at += length


def _octal(field_: bytes) -> int | None:
    digits = field_.strip(b" \0")
    if not digits or not all(48 <= digit < 56 for digit in digits):
        return None
    return int(digits, 8)


@dataclass(slots=True)
class _Objects:
    """What the object refers to, by key.

    Attributes:
        storages: key -> (storage, its elements' type, first element, elements); views point into their root.
        tensors: key -> tensor.
    """

    storages: dict[str, StorageRef] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    sources: dict[str, tuple[str, str]] = field(default_factory=dict)

    def persistent(self, pid: Value) -> Value:
        if isinstance(pid, (tuple, list)) and pid and isinstance(pid[0], Global):
            # (class, file, source text) of a container.
            texts = [text_of(part) or "" for part in pid[1:3]]
            self.sources.setdefault(pid[0].path, (texts[0] if texts else "", texts[1] if len(texts) > 1 else ""))
            return pid[0]
        key = _key(pid)
        if key is not None and key in self.tensors:
            return self.tensors[key]
        if key is not None and key in self.storages:
            return self.storages[key]
        self.unknown.append(str(key)[:40])
        return Record(Global("rekindle", "persistent_id"), (pid,))


def _key(value: Value) -> str | None:
    """Return a key as text: files hold it as a number here and as text there."""
    if type(value) is int:
        return str(value) if value.bit_length() <= 128 else None
    return text_of(value)


def _read_objects(members: dict[str, WindowSource], limits: Limits, findings: list[Finding]) -> _Objects | None:
    """Read storages and tensors; what was read before something broke is kept. None where nothing could be."""
    objects = _Objects()
    for name, reader in (("storages", _read_storages), ("tensors", _read_tensors)):
        try:
            reader(members[name], objects, limits, findings)
        except LimitExceeded:
            raise
        except UnreadableFile as error:
            findings.append(
                _error(
                    f"{name}: {error.what.removeprefix(name + ': ')}",
                    error.why or "the file was cut short or overwritten",
                    member=name,
                )
            )
    return objects if objects.storages or objects.tensors or not findings else None


def _load(source: WindowSource, at: int, limits: Limits) -> tuple[Value, int]:
    """Run the pickle at a byte and return (value, the byte behind it); those of items have a few hundred bytes."""
    from rekindle.unpickling.machine import run_program  # noqa: PLC0415

    def nothing() -> tuple[None, None]:
        return None, None

    try:
        outcome = run_program(source.read(at, min(_SMALL_PICKLE, source.size - at)), limits=limits)
    except LimitExceeded:
        raise
    except UnreadableFile:
        _, outcome = run_growing(source, at, limits, nothing)
        return outcome.value, outcome.end
    return outcome.value, at + outcome.end


def _items(source: WindowSource, limits: Limits, wanted: int) -> _Items:
    """Yield (the tuple of an item, the byte behind it); the consumer sends where the item's raw bytes end."""
    value, at = _load(source, 0, limits)
    count = count_of(value)
    if count is None or count > limits.members:
        raise UnreadableFile(f"{source.path}: it should begin with a count, not {str(value)[:40]!r}")
    for _ in range(count):
        item, at = _load(source, at, limits)
        if not isinstance(item, (tuple, list)) or len(item) != wanted:
            raise UnreadableFile(f"{source.path}: an item that ends at byte {at:,} has not the form that torch wrote")
        at = yield tuple(item), at
    yield (), at


def _read_storages(source: WindowSource, objects: _Objects, limits: Limits, findings: list[Finding]) -> None:
    items = _items(source, limits, 3)
    item, at = next(items)
    while item:
        key, location, dtype = _key(item[0]), text_of(item[1]), _dtype_of(item[2])
        if key is None or location is None or dtype is None:
            raise UnreadableFile(f"{source.path}: a storage that ends at byte {at:,} is not described as torch did")
        count = int.from_bytes(source.read(at, 8), "little", signed=True)
        if count < 0 or at + 8 + count * dtype.itemsize > source.size:
            raise UnreadableFile(
                f"{source.path}: storage {key} at byte {at:,} says that it has {count:,} elements of {dtype.itemsize} "
                f"bytes; {source.size - at - 8:,} bytes follow",
                why="the file was cut short, or a length in it is wrong",
            )
        size = count * dtype.itemsize
        storage = Storage(key, size, at_base(source.range(at + 8, size)), location)
        objects.storages[key] = StorageRef(storage, dtype.name, 0, count)
        item, at = items.send(at + 8 + size)
    views, at = _load(source, at, limits)
    for view in views if isinstance(views, (list, tuple)) else ():
        _add_view(view, objects, findings)


def _add_view(view: Value, objects: _Objects, findings: list[Finding]) -> None:
    if isinstance(view, (tuple, list)) and len(view) == 4:
        key, root = _key(view[0]), objects.storages.get(_key(view[1]) or "")
        offset, count = count_of(view[2]), count_of(view[3])
        if key and root is not None and offset is not None and count is not None and offset + count <= root.numel:
            objects.storages[key] = StorageRef(root.storage, root.dtype, root.offset + offset, count)
            return
    findings.append(
        _error("a view of a storage is not described as torch did, or reaches out of its root", "", member="storages")
    )


def _read_tensors(source: WindowSource, objects: _Objects, limits: Limits, findings: list[Finding]) -> None:
    items = _items(source, limits, 3)
    item, at = next(items)
    while item:
        key = _key(item[0])
        dims = _INT4.unpack(source.read(at, 4))[0]
        if key is None or not 0 <= dims <= limits.tensor_dims:
            raise UnreadableFile(f"{source.path}: a tensor that ends at byte {at:,} says that it has {dims} dimensions")
        numbers = source.read(at + 8, 8 * (2 * dims + 1))
        values = [int.from_bytes(numbers[i : i + 8], "little", signed=True) for i in range(0, len(numbers), 8)]
        at += 8 + len(numbers)
        objects.tensors[key] = _tensor(key, item[1], item[2], values, objects, findings)
        item, at = items.send(at)


def _tensor(
    key: str, storage_key: Value, kind: Value, values: list[int], objects: _Objects, findings: list[Finding]
) -> Tensor:
    dims = len(values) // 2
    shape, stride, offset = tuple(values[:dims]), tuple(values[dims : 2 * dims]), values[-1]
    if not dims:
        shape, stride = (0,), (1,)  # before 0.4 a tensor without dimensions was an empty one
    if storage_key is None:
        return _empty(key, kind)
    name = str(_key(storage_key))[:40]
    if min((*shape, *stride, offset)) < 0:
        findings.append(_error(f"tensor {key} has a negative size, stride or offset", "", member="tensors"))
        return _empty(key, kind)
    reference = objects.storages.get(name)
    if reference is None:
        findings.append(_error(f"tensor {key} lies in storage {name}, which is not there", "", member="tensors"))
        dtype = _dtype_of(kind) or DTYPES["float32"]
        wanted = (offset + span_of(shape, stride)) * dtype.itemsize
        return Tensor(Storage(f"missing-{name}", wanted, None), dtype.name, offset, shape, stride)
    return Tensor(reference.storage, reference.dtype, reference.offset + offset, shape, stride)


def _empty(key: str, kind: Value) -> Tensor:
    dtype = _dtype_of(kind) or DTYPES["float32"]
    return Tensor(Storage(f"none-{key}", 0, None), dtype.name, 0, (0,), (1,))


def _dtype_of(kind: Value) -> DType | None:
    """Return the element type of a storage or tensor class: ``torch.FloatStorage``, ``torch.cuda.HalfTensor``."""
    if not isinstance(kind, Global) or kind.module not in {"torch", "torch.cuda"}:
        return None
    return DTYPE_OF_STORAGE.get(kind.name.removesuffix("Tensor").removesuffix("Storage") + "Storage")


def _read_pickle(
    source: WindowSource, objects: _Objects, limits: Limits, findings: list[Finding]
) -> tuple[Value, int] | None:
    def fresh() -> tuple[None, Callable[[Value], Value]]:
        objects.unknown.clear()
        return None, objects.persistent

    try:
        _, outcome = run_growing(source, 0, limits, fresh)
    except LimitExceeded:
        raise
    except UnreadableFile as error:
        findings.append(
            Finding(
                "RK-FILE-07",
                "broken-pickle",
                Severity.ERROR,
                f"pickle: {error.what.removeprefix('pickle: ')}",
                error.why,
                where=Where(member="pickle"),
            )
        )
        return None
    findings.extend(outcome.findings)
    if objects.unknown:
        shown = ", ".join(objects.unknown[:4]) + (" and more" if len(objects.unknown) > 4 else "")
        findings.append(
            Finding(
                "RK-FILE-19",
                "missing-storage",
                Severity.ERROR,
                f"the object refers to {len(objects.unknown):,} tensors or storages that are not there: {shown}",
                "the file was cut short or overwritten",
                where=Where(member="pickle"),
            )
        )
    return outcome.value, outcome.protocol


def _byteorder(source: WindowSource, limits: Limits, findings: list[Finding]) -> str:
    try:
        value, _ = _load(source, 0, limits)
    except LimitExceeded:
        raise
    except UnreadableFile as error:
        findings.append(_error(f"sys_info: {error.what}", error.why, member="sys_info"))
        return "little"
    if lookup(value, "little_endian") is False:
        findings.append(
            Finding(
                "RK-FILE-28",
                "odd-byteorder",
                Severity.WARNING,
                "the file was written on a big-endian machine; its elements are taken as little-endian",
                "torch refuses such files, so nobody could say which of the two they are",
                where=Where(member="sys_info"),
            )
        )
        return "big"
    return "little"
