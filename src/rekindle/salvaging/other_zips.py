"""TorchScript, torch.export and torch.package archives that are cut or overwritten.

Their records are found as those of `torch.save` are, by the directory and by their own headers, and each is believed
when a CRC-32 agrees. What is found is handed as a directory to the reader of the container, which knows what the
records mean; a storage whose record is not whole has no bytes then. One wrong byte of a small record is put right by
its CRC. Where the description is lost, whole storages come out flat, named by their record.

Facts: PyTorch 2.13 `caffe2/serialize/inline_container.cc`: records lie on multiples of 64 bytes, CRC-32 and lengths
follow each one and are repeated in the directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from zlib import crc32

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._zip_directory import Directory, InflatedBytes, ZipRecord
from rekindle.limits import Limits
from rekindle.listing import table_of
from rekindle.salvaging import Fate, Gone, Wreck
from rekindle.salvaging.mend import MEND_BYTES_MAX, mend_one_byte
from rekindle.salvaging.zip_scan import SIZES_FOLLOW, Headers, Local, checksums_of, find_headers
from rekindle.source import BufferBytes, ByteRange, Bytes, Source
from rekindle.tensors import Storage, TensorEntry
from rekindle.tree import Map, Tensor, Value, distinct_nodes

__all__ = ["explore", "kind_of_archive"]

_STORAGE = re.compile(
    r"(?:data|constants|tensors)/[0-9]+|\.data/[0-9]+\.storage|data/(?:weights|constants)/[a-z]+_[0-9]+"
)
# What is put in the place of the record by which a container is known, where that is lost.
_SIGNS = {
    "torchscript": ("constants.pkl", b"\x80\x02)."),
    "torch-package": (".data/extern_modules", b""),
    "torch-export": ("archive_format", b"pt2"),
}
_DESCRIPTOR = b"PK\x07\x08"
_ALIGNMENT = 64
_TRIES = 4
_READS = 4
_FREE_READS = 64 * 1024**2


@dataclass(slots=True)
class _Found:
    """A record as far as it is known."""

    name: str
    at: int
    data: Bytes | None
    size: int
    crc: int
    proven: bool
    why: str = ""
    mended: bool = False


def kind_of_archive(headers: Headers) -> tuple[ModuleType, str] | None:
    """Return (the reader, the folder around the records) by what is left of an archive's names; None for others."""
    from rekindle.formats import torch_export, torch_package, torch_script  # noqa: PLC0415 - one of them is used

    names = [local.name for local in headers.locals] + [central.name for central in headers.centrals]
    for module, pattern in (
        (torch_export, r"(.*?/)?(?:archive_format|data/weights/.*|serialized_exported_program\.json)"),
        (torch_package, r"(.*?/)?\.data/(?:extern_modules|[0-9]+\.storage)"),
        (torch_script, r"(.*?/)?(?:constants\.pkl|code/__torch__.*|constants/[0-9]+|tensors/[0-9]+|model\.json)"),
    ):
        roots = [found[1] or "" for name in names if (found := re.fullmatch(pattern, name))]
        if roots:
            return module, max(set(roots), key=roots.count)
    return None


def explore(source: Source, limits: Limits, *, keep_damaged: bool = False) -> Wreck | None:
    """Return what is left of an archive; None where it is of another kind.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    headers = find_headers(source, limits)
    kind = kind_of_archive(headers)
    if kind is None:
        return None
    module, root = kind
    found = {record.name: record for record in _records(source, headers) if record.name.startswith(root)}
    wreck = Wreck(source.path, module.NAME, source.size)
    records = tuple(
        ZipRecord(
            one.name,
            one.size,
            one.crc,
            one.at,
            one.data if isinstance(one.data, ByteRange) else None,
            one.data if _is_usable(one, root, keep_damaged=keep_damaged) else None,
            compressed=False,
        )
        for one in found.values()
        if one.size or not one.why
    )
    lacks = not module.is_archive({record.name.removeprefix(root) for record in records})
    if lacks:  # the record by which the reader knows its container is lost; what else it says is little
        name, content = _SIGNS[module.NAME]
        data = BufferBytes(memoryview(content))
        records += (ZipRecord(root + name, len(content), 0, 0, None, data, compressed=False),)
    inner: list[Finding] = []
    try:
        opened = module.read_archive(source, Directory(records, 0, 0), limits, inner)
    except LimitExceeded:
        raise
    except UnreadableFile as error:
        inner.append(Finding("RK-FILE-07", "broken-pickle", Severity.ERROR, error.what, error.why))
        opened = None
    wreck.findings = [finding for finding in inner if finding.name != "missing-storage"]
    _report_mended(found, wreck)
    described = [one for one in found.values() if not _is_storage(one.name, root)]
    whole = opened is not None and opened.listed
    sound = whole and all(
        one.proven and not one.mended for one in described if one.name.endswith((".pkl", ".json", ".pt"))
    )
    if opened is not None and whole:
        wreck.tree = _tree_of(opened.tree, opened.table.entries, limits)
    doubtful = any(one.why and one.data is not None and one.name.endswith(".pt") for one in described)
    mended = any(one.mended for one in described)
    wreck.described = "lost" if not whole else "doubtful" if doubtful else "mended" if mended else "whole"
    used: set[str] = set()
    for node in distinct_nodes(wreck.tree):
        if isinstance(node, Tensor) and id(node.storage) not in wreck.fates:
            name = _name_of(node.storage.id, root, found)
            used.add(name)
            wreck.decide(node.storage, _fate(node.storage, found.get(name), sound=sound))
    if not whole or lacks:
        _add_flat(wreck, found, root, used)
    if not whole:
        wreck.findings.append(
            Finding(
                "RK-SALV-03",
                "broken-description",
                Severity.ERROR,
                f"what describes the tensors of this {module.NAME} archive is lost",
                "it lies in other records than the numbers, and these were cut off or overwritten",
            )
        )
    return wreck if wreck.tree is not None else None


def _is_usable(one: _Found, root: str, *, keep_damaged: bool) -> bool:
    """Tell whether the reader gets a record's bytes; an archive inside the archive has checksums of its own."""
    return one.proven or not one.why or one.name.endswith(".pt") or (keep_damaged and _is_storage(one.name, root))


def _is_storage(name: str, root: str) -> bool:
    return _STORAGE.fullmatch(name.removeprefix(root)) is not None


def _name_of(storage_id: str, root: str, found: dict[str, _Found]) -> str:
    """Return the record that a storage of the reader lies in."""
    for name in (root + storage_id, storage_id):
        if name in found:
            return name
    return root + storage_id


def _fate(storage: Storage, record: _Found | None, *, sound: bool) -> Fate:
    if storage.device == "meta" and storage.data is None:
        return Fate(proven=False, why="it has no values (meta device)")
    if record is None and isinstance(storage.data, ByteRange):  # of an archive inside the archive
        crc, promised = checksums_of(storage.data)
        if promised is not None and crc != promised:
            storage.data = None
            return Fate(proven=False, why=f"its bytes were changed: CRC-32 {crc:08x}, written as {promised:08x}")
        return Fate(proven=promised is not None and sound)
    if record is None:
        return Fate(proven=False, why="" if storage.data is not None else "its record is not found")
    if storage.data is None and storage.size_bytes:
        return Fate(proven=False, why=record.why or "its record has another size than the description says")
    if record.why:
        return Fate(proven=False, why=record.why, damaged=True)
    return Fate(proven=record.proven and sound)


def _tree_of(tree: Value, entries: tuple[TensorEntry, ...], limits: Limits) -> Value:
    """Return the object; where the reader lists more tensors than are in it, all of them under their keys."""
    if len(table_of(tree, limits)[0]) >= len(entries):
        return tree
    pairs: list[tuple[Value, Value]] = []
    for entry in entries:
        tensor = Tensor(entry.storage, entry.dtype, entry.offset, entry.shape, entry.stride, entry.requires_grad)
        tensor.parameter, tensor.conj, tensor.neg = entry.parameter, entry.conj, entry.neg
        pairs.append((entry.key, tensor))
    return Map(pairs, "OrderedDict")


def _add_flat(wreck: Wreck, found: dict[str, _Found], root: str, used: set[str]) -> None:
    pairs: list[tuple[Value, Value]] = list(wreck.tree.pairs) if isinstance(wreck.tree, Map) else []
    for name, one in found.items():
        if name in used or not _is_storage(name, root) or not one.size:
            continue
        inner = name.removeprefix(root)
        if one.data is None or (one.why and not one.proven):
            wreck.gone.append(Gone(f"storage_{inner.replace('/', '_')}", one.why))
            continue
        storage = Storage(inner, one.size, one.data)
        wreck.decide(storage, Fate(proven=one.proven))
        pairs.append((f"storage_{inner.replace('/', '_')}", Tensor(storage, "uint8", 0, (one.size,), (1,))))
    if pairs or wreck.gone:
        wreck.tree = Map(pairs, "OrderedDict")


def _report_mended(found: dict[str, _Found], wreck: Wreck) -> None:
    wreck.findings += [
        Finding(
            "RK-SALV-01",
            "mended-description",
            Severity.WARNING,
            f"one byte of {one.name} was changed and is put right: then its CRC-32 is right",
            why="the CRC tells which byte, other damage looks like this very rarely",
            where=Where(member=one.name),
        )
        for one in found.values()
        if one.mended
    ]


# ---- records


def _records(source: Source, headers: Headers) -> Iterator[_Found]:
    """Yield the records that can be told, each name once; those that a checksum vouches for are preferred."""
    locals_ = {local.offset: local for local in headers.locals}
    budget = [_READS * source.size + _FREE_READS]
    best: dict[str, _Found] = {}
    claimed: set[int] = set()
    for central in headers.centrals:
        local = locals_.get(central.header_at)
        sizes = dict.fromkeys((central.size, central.packed) if not central.method else (central.packed,))
        crcs = (central.crc32,)
        places = dict.fromkeys(
            ([local.data_at] if local is not None else []) + [_aligned(central.header_at, central.name)]
        )
        claimed.add(central.header_at)
        for place in places:
            for packed in sizes:
                size = central.size if central.method else packed
                _take(
                    best,
                    _judged(source, central.name, central.header_at, place, packed, size, central.method, crcs, budget),
                )
    reached = 0
    for local in headers.locals:
        if local.name in best and best[local.name].proven:
            reached = max(reached, local.data_at + best[local.name].size)
            continue
        if local.offset < reached:
            continue  # a header inside the bytes of a record that is proven
        one = _by_header(source, local, headers, budget)
        _take(best, one)
        if one.proven:
            reached = max(reached, local.data_at + one.size)
    yield from best.values()


def _take(best: dict[str, _Found], one: _Found) -> None:
    known = best.get(one.name)
    if known is None or (one.proven and not known.proven) or (one.data is not None and known.data is None):
        best[one.name] = one


def _by_header(source: Source, local: Local, headers: Headers, budget: list[int]) -> _Found:
    if not local.flags & SIZES_FOLLOW:
        crcs = (local.crc32,)
        return _judged(
            source, local.name, local.offset, local.data_at, local.packed, local.size, local.method, crcs, budget
        )
    worst = _Found(local.name, local.offset, None, 0, 0, proven=False, why="the end of its record is not found")
    for place in dict.fromkeys((local.data_at, _aligned(local.offset, local.name))):
        tried = 0
        for at in headers.descriptors:
            if at < place or tried >= _TRIES:
                continue
            tail = source.read(at, min(24, source.size - at))
            size = at - place
            if int.from_bytes(tail[12:16], "little") != size and tail[16:24] != size.to_bytes(8, "little"):
                continue
            tried += 1
            one = _judged(source, local.name, local.offset, place, size, size, 0, (), budget)
            if one.proven:
                return one
            worst = one
    if source.read(local.data_at, min(4, source.size - local.data_at)) == b"PK\x03\x04":
        return _Found(local.name, local.offset, BufferBytes(memoryview(b"")), 0, 0, proven=True)  # an empty record
    if worst.data is None and not worst.size:
        there = source.size - local.data_at
        worst.why = f"the file ends inside it, or its end was overwritten; {there:,} bytes follow its header"
    return worst


def _judged(
    source: Source, name: str, at: int, place: int, packed: int, size: int, method: int, crcs: tuple[int, ...],
    budget: list[int],
) -> _Found:  # fmt: skip
    """Return a record that would lie at a place, with what its checksums say."""
    end = place + packed
    if end > source.size:
        there = max(source.size - place, 0)
        why = f"the file ends inside it: {there:,} of {packed:,} bytes are there"
        return _Found(name, at, None, size, 0, proven=False, why=why)
    if budget[0] < size or method not in {0, 8}:
        return _Found(name, at, None, size, 0, proven=False, why="it cannot be checked")
    budget[0] -= size
    raw = ByteRange(source, place, packed)
    data: Bytes = InflatedBytes(raw, size, name) if method else raw
    crc = 0
    try:
        for chunk in data.chunks():
            crc = crc32(chunk, crc)
    except UnreadableFile as error:
        return _Found(name, at, None, size, 0, proven=False, why=error.what)
    tail = source.read(end, min(8, source.size - end))
    behind = int.from_bytes(tail[4:8], "little") if tail[:4] == _DESCRIPTOR and len(tail) == 8 else 0
    promised = [value for value in (*crcs, behind) if value]
    if crc in promised or not size:
        return _Found(name, at, data, size, crc, proven=True)
    if not promised:
        return _Found(name, at, data, size, crc, proven=False)
    if size <= MEND_BYTES_MAX and not method and name.endswith((".pkl", ".json", ".py")):
        for value in dict.fromkeys(promised):
            mended = mend_one_byte(raw.read(), value)
            if mended is not None:
                return _Found(name, at, BufferBytes(memoryview(mended[0])), size, value, proven=True, mended=True)
    why = f"its bytes were changed: CRC-32 {crc:08x}, written as {promised[0]:08x}"
    return _Found(name, at, data, size, crc, proven=False, why=why)


def _aligned(header_at: int, name: str) -> int:
    """Return where torch puts the bytes of a record whose header starts at a byte (below 4 GB)."""
    unpadded = header_at + 30 + len(name.encode()) + 4
    return unpadded + -unpadded % _ALIGNMENT
