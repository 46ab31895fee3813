"""What `torch.save` wrote from 0.1.10 to 1.5, and still does with ``_use_new_zipfile_serialization=False``.

A row of pickles and then raw bytes: magic number, protocol number 1001, facts about the machine, the object, the list
of storage keys; then per key an int64 element count and the elements, both little-endian on every machine. There is no
checksum and no trailer: the exact length is all that can be checked. A storage may be a view into another one (its
root), and a whole module carries the source text of its classes.

Facts: PyTorch 1.5 `torch/serialization.py` (`_legacy_save`, `_legacy_load`) and 0.2 (views).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._growing import ran_out, run_growing
from rekindle.formats._sources import rescue_words
from rekindle.formats._storages import StorageId, odd_persistent_id, read_storage_id, text_of
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import NearReader, Readable, Source
from rekindle.tensors import DTYPES, Storage, TensorTable
from rekindle.tree import Global, Module, Record, StorageRef, Value, distinct_nodes, lookup

__all__ = ["NAME", "Stream", "is_mangled", "is_stream", "read", "read_stream", "sniff"]

NAME = "torch-stream"

_MAGIC = 0x1950A86A20F9469CFC6C
_LONG1 = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_TEXT = f"L{_MAGIC}L\n.".encode()  # protocols 0 and 1 write it in digits
_PROTOCOL = 1001


def is_stream(head: bytes) -> bool:
    """Tell whether the bytes start with the magic number, pickled with any protocol."""
    if head[:1] == b"\x80":
        body = head[2:]
        if body[:1] == b"\x95":  # FRAME and its length, from protocol 4 on
            body = body[9:]
        return body.startswith(_LONG1)
    return head.startswith(_TEXT)


def is_mangled(head: bytes) -> bool:
    """Tell whether the bytes start with the magic number whose one line feed (0A) became two bytes (0D 0A)."""
    return head[:1] == b"\x80" and _LONG1.replace(b"\n", b"\r\n") in head[:32]


def sniff(head: bytes, source: Source) -> bool:  # noqa: ARG001 - every format has the same two arguments
    """Tell whether the file starts with the magic number."""
    return is_stream(head)


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read the pickles and the counts; the elements stay where they are.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    stream = read_stream(source, limits)
    return Opened(
        source.path,
        NAME,
        source.size,
        stream.tree,
        stream.table,
        tuple(stream.findings),
        (),
        stream.facts,
        source.close,
        listed=stream.listed,
        globals=tuple(stream.globals),
    )


@dataclass(slots=True)
class Stream:
    """One stream while and after it is read.

    Attributes:
        tree: the object.
        table: its tensors.
        findings: what is wrong with it.
        facts: ``byteorder``, ``protocol``, ``sources`` (class path -> file and text) where they are known.
        end: the byte after its last element.
        listed: whether the object could be read.
        keys: of the storages, in the order of the file; empty where the list of them cannot be read.
        said: key -> (elements, bytes of one, whether it is only known through views), as the object says.
        object_end: the byte behind the object's pickle.
        storages_at: the byte of the first element count; -1 where it is not known.
        globals: every name that its pickles want imported, in order.
    """

    tree: Value = None
    table: TensorTable = field(default_factory=lambda: TensorTable(()))
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    end: int = 0
    listed: bool = False
    keys: list[str] = field(default_factory=list)
    said: dict[str, tuple[int, int, bool]] = field(default_factory=dict)
    object_end: int = -1
    storages_at: int = -1
    globals: list[Global] = field(default_factory=list)


@dataclass(slots=True)
class _Met:
    """What the persistent ids of the object pickle named, by key of the root storage."""

    prefix: str
    storages: dict[str, Storage] = field(default_factory=dict)
    said: dict[str, StorageId] = field(default_factory=dict)
    whole: dict[str, list[StorageRef]] = field(default_factory=dict)  # references that are no views
    odd: list[Value] = field(default_factory=list)
    sources: dict[str, tuple[str, str]] = field(default_factory=dict)
    mixed: list[StorageId] = field(default_factory=list)

    def persistent(self, pid: Value) -> Value:
        said = read_storage_id(pid)
        if said is None:
            if isinstance(pid, (tuple, list)) and len(pid) >= 2 and text_of(pid[0]) == "module":
                kind = pid[1]
                if isinstance(kind, Global):
                    file, text = (text_of(part) or "" for part in (*pid[2:4], "", "")[:2])
                    self.sources.setdefault(kind.path, (file, text))
                return kind
            self.odd.append(pid)
            return Record(Global("rekindle", "persistent_id"), (pid,))
        storage = self.storages.get(said.key)
        if storage is None:
            storage = Storage(self.prefix + said.key, said.numel * said.dtype.itemsize, None, said.location)
            self.storages[said.key] = storage
            self.said[said.key] = said
        elif said.dtype.itemsize != self.said[said.key].dtype.itemsize:
            self.mixed.append(said)
        if said.view is not None:
            return StorageRef(storage, said.dtype.name, said.view[1], said.view[2])
        reference = StorageRef(storage, said.dtype.name, 0, said.numel)
        self.whole.setdefault(said.key, []).append(reference)
        return reference


def read_stream(source: Readable, limits: Limits, depth: int = 0, prefix: str = "") -> Stream:
    """Read one stream from its first byte to its last element.

    Args:
        source: where it is.
        limits: caps.
        depth: how many streams it is inside of.
        prefix: put in front of the ids of its storages.
    """
    from rekindle.listing import table_of  # noqa: PLC0415

    stream = Stream()
    try:
        met, keys, at = _read_pickles(source, limits, stream, depth, prefix)
    except LimitExceeded:
        raise
    except UnreadableFile as error:
        cut = ran_out(error)
        stream.findings.append(
            Finding(
                "RK-FILE-16" if cut else "RK-FILE-07",
                "truncated-stream" if cut else "broken-pickle",
                Severity.ERROR,
                f"{source.path}: {error.what}" if not error.what.startswith(source.path) else error.what,
                error.why or "the file was cut short or overwritten",
                error.do or "copy or download it again and compare the sizes",
            )
        )
        return stream
    stream.listed = True
    stream.keys, stream.storages_at = keys, at
    stream.said = {key: (said.numel, said.dtype.itemsize, said.view is not None) for key, said in met.said.items()}
    stream.findings.extend(odd_persistent_id(pid) for pid in met.odd[:4])
    stream.findings.extend(_mixed(said) for said in met.mixed[:4])
    _place_storages(source, met, keys, at, stream)
    _attach_sources(stream, met)
    table, found = table_of(stream.tree, limits)
    stream.table = table
    stream.findings.extend(found)
    return stream


def _read_pickles(
    source: Readable, limits: Limits, stream: Stream, depth: int, prefix: str
) -> tuple[_Met, list[str], int]:
    """Run the five pickles; return what the object referred to, the keys in order and the byte after them."""

    def nothing() -> tuple[None, None]:
        return None, None

    def fresh() -> tuple[_Met, Callable[[Value], Value]]:
        met = _Met(prefix)
        return met, met.persistent

    at = 0
    head: list[Value] = []
    for _ in range(3):
        _, outcome = run_growing(source, at, limits, nothing)
        head.append(outcome.value)
        stream.globals += outcome.globals
        at = outcome.end
    if head[0] != _MAGIC or head[1] != _PROTOCOL:
        stream.findings.append(
            Finding(
                "RK-FILE-32",
                "unknown-stream-version",
                Severity.WARNING,
                f"the stream has protocol {str(head[1])[:40]}; {_PROTOCOL} is the only one that torch wrote",
                why="another program wrote it, or its first bytes were changed",
            )
        )
    little = lookup(head[2], "little_endian")
    stream.facts["byteorder"] = "big" if little is False else "little"
    met, outcome = run_growing(
        source, at, limits, fresh, _what_follows(source.read(at, min(2, source.size - at))), depth
    )
    stream.facts["protocol"] = outcome.protocol
    stream.findings.extend(outcome.findings)
    stream.globals += outcome.globals
    stream.tree = outcome.value
    at = stream.object_end = outcome.end
    keys: list[str] = []
    try:
        _, outcome = run_growing(source, at, limits, nothing)
    except LimitExceeded:
        raise
    except UnreadableFile as error:
        stream.findings.append(
            Finding(
                "RK-FILE-16",
                "truncated-stream",
                Severity.ERROR,
                f"{source.path}: the list of storages at byte {at:,} cannot be read; found {source.size:,} bytes",
                why=error.why or "the file was cut short",
                do="copy or download it again and compare the sizes",
                where=Where(offset=at),
            )
        )
        return met, [], -1
    stream.globals += outcome.globals
    if isinstance(outcome.value, list):
        keys = [text for text in map(_key, outcome.value) if text is not None]
    return met, keys, outcome.end


def _what_follows(opening: bytes) -> bytes:
    """Return the STOP of the object with the first opcodes of the list of keys, which has the same protocol.

    Three bytes would not do: an index of the memo can look like STOP and PROTO.
    """
    if opening[:1] != b"\x80" or len(opening) < 2:
        return b""
    return b"." + opening + (b"]" if opening[1] < 4 else b"\x95")


def _key(value: Value) -> str | None:
    return str(value) if isinstance(value, int) else text_of(value)


def _place_storages(source: Readable, met: _Met, keys: list[str], at: int, stream: Stream) -> None:
    """Find the bytes of each storage; what cannot be found is named."""
    if at < 0:
        stream.end = source.size
        return
    missing: list[str] = []
    wanted = sum(8 + storage.size_bytes for storage in met.storages.values())
    start = at
    if isinstance(source, Source):
        sizes = [8 + met.storages[key].size_bytes if key in met.storages else 8 for key in keys]
        source.will_need(list(accumulate(sizes[:-1], initial=at)), 8)
    counts = NearReader(source)
    for index, key in enumerate(keys):
        said = met.said.get(key)
        if said is None:
            stream.findings.append(
                Finding(
                    "RK-FILE-16",
                    "truncated-stream",
                    Severity.ERROR,
                    f"{source.path}: storage {key} belongs to no tensor, so nobody knows how long it is",
                    why="the object in front of it was edited, or the file was made up",
                    where=Where(offset=at),
                )
            )
            missing = keys[index:]
            at = source.size
            break
        if at + 8 > source.size:
            missing = keys[index:]
            at = source.size
            break
        count = int.from_bytes(counts.read(at, 8), "little", signed=True)
        size = count * said.dtype.itemsize
        storage = met.storages[key]
        _check_count(said, count, at, stream.findings)
        if count < 0 or at + 8 + size > source.size:
            missing = keys[index:]
            at = source.size
            break
        storage.size_bytes = size
        storage.data = source.range(at + 8, size)
        for reference in met.whole.get(key, ()):
            reference.numel = size // DTYPES[reference.dtype].itemsize
        at += 8 + size
    listed = set(keys)
    missing += [key for key in met.storages if key not in listed]
    _report_missing(source, met, missing, start + wanted, stream.findings)
    if at < source.size and not missing:
        _report_trailing(source, at, stream.findings)
    stream.end = at


def _check_count(said: StorageId, count: int, at: int, findings: list[Finding]) -> None:
    if said.view is None and count != said.numel:
        findings.append(
            Finding(
                "RK-FILE-18",
                "storage-size-mismatch",
                Severity.ERROR,
                f"storage {said.key} has {count:,} elements, the pickle says {said.numel:,}",
                why="the bytes before it were lost or added, or the file was changed after saving",
                do="get the file again from its source",
                where=Where(offset=at),
            )
        )


def _report_missing(source: Readable, met: _Met, missing: list[str], expected: int, findings: list[Finding]) -> None:
    if not missing:
        return
    names = ", ".join(missing[:4]) + (f" and {len(missing) - 4:,} more" if len(missing) > 4 else "")
    findings.append(
        Finding(
            "RK-FILE-16",
            "truncated-stream",
            Severity.ERROR,
            f"{source.path}: {len(missing):,} of {len(met.storages):,} storages are missing ({names}); "
            f"found {source.size:,} of {expected:,} bytes",
            why="the copy or the download stopped early, or the disk filled up while saving",
            do=rescue_words(source)
            if any(storage.data is not None and storage.size_bytes for storage in met.storages.values())
            else "copy or download it again and compare the sizes",
            where=Where(offset=source.size),
        )
    )


def _report_trailing(source: Readable, at: int, findings: list[Finding]) -> None:
    another = is_stream(source.read(at, min(64, source.size - at)))
    findings.append(
        Finding(
            "RK-FILE-15",
            "trailing-bytes",
            Severity.WARNING,
            f"{source.size - at:,} bytes follow the last storage"
            + ("; they are another object, saved into the same file" if another else ""),
            why="torch.save was called twice on one open file; the first object is listed"
            if another
            else "another file was appended, or an older and longer file was overwritten in place",
            where=Where(offset=at),
        )
    )


def _mixed(said: StorageId) -> Finding:
    return Finding(
        "RK-FILE-18",
        "storage-size-mismatch",
        Severity.WARNING,
        f"storage {said.key} is used with elements of two sizes; the first use decides how long it is",
        why="torch does the same; no version of it writes this",
    )


def _attach_sources(stream: Stream, met: _Met) -> None:
    """Give each module the source text of its class, and the facts all of them."""
    if not met.sources:
        return
    stream.facts["sources"] = {path: {"file": file, "text": text} for path, (file, text) in met.sources.items()}
    for node in distinct_nodes(stream.tree):
        if isinstance(node, Module):
            node.source = met.sources.get(node.type.path, ("", None))[1]
