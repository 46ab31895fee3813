"""Old torch streams that are cut or overwritten.

There is no checksum, so nothing is ever proven: what vouches for a storage is that the element count in front of it is
the one that the pickle says, and that the next count stands where this storage ends. A count that disagrees is taken
for damaged when the pickle's own number leads to the next one, so that one wrong byte does not shift all that follows.

Where the object's pickle is broken, the list of keys behind it is looked for, and element sizes with which the counts
lead from one storage to the next and end where the file ends. Those storages come out under the names that the pickle
gave before it broke, else flat. Where two readings fit, only what both agree on is taken.

Facts: PyTorch 1.5 `torch/serialization.py` (`_legacy_save`: counts are int64, little-endian).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats import torch_stream
from rekindle.formats._growing import run_growing
from rekindle.formats._storages import read_storage_id
from rekindle.limits import Limits
from rekindle.salvaging import Fate, Wreck
from rekindle.source import CHUNK_BYTES, ByteRange, NearReader, Source
from rekindle.tensors import DTYPES, Storage
from rekindle.tree import Map, StorageRef, Tensor, Value, distinct_nodes
from rekindle.unpickling.machine import run_partly

__all__ = ["explore"]

# Bytes of one element, the likely ones first.
_ITEMSIZES = (4, 2, 8, 1, 16)
# Places that may be tried for the list of keys, and steps of looking for the storages behind one.
_MOST_PLACES = 1000
_MOST_STEPS = 200_000


def explore(source: Source, limits: Limits) -> Wreck | None:
    """Return what is left of a stream; None where neither its object nor its storages can be told.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    stream = torch_stream.read_stream(source, limits)
    if not stream.listed:
        return _without_object(source, limits)
    wreck = Wreck(source.path, torch_stream.NAME, source.size, stream.tree)
    wreck.findings = [finding for finding in stream.findings if finding.code not in {"RK-FILE-16", "RK-FILE-18"}]
    storages = _storages(stream)
    declared = {id(storage): size for storage, size in storages.values()}
    placed = [storage for storage, _ in storages.values() if storage.data is not None]
    if len(placed) < len(storages) or any(f.code in {"RK-FILE-16", "RK-FILE-18"} for f in stream.findings):
        _place_again(source, stream, storages, wreck)
    for storage, _ in storages.values():
        if storage.data is None and storage.size_bytes and id(storage) not in wreck.fates:
            wreck.decide(storage, Fate(proven=False, why="the file ends before the end of its bytes"))
        elif id(storage) not in wreck.fates:
            wreck.decide(storage, Fate(proven=not declared[id(storage)] and not storage.size_bytes))
    return wreck


def _storages(stream: torch_stream.Stream) -> dict[str, tuple[Storage, int]]:
    """Return the storages of the object by key, each with the bytes that it is said to have."""
    found: dict[str, tuple[Storage, int]] = {}
    for node in distinct_nodes(stream.tree):
        if isinstance(node, (Tensor, StorageRef)) and not node.storage.id.startswith("nested"):
            found[node.storage.id] = node.storage, node.storage.size_bytes
    return found


def _place_again(
    source: Source, stream: torch_stream.Stream, storages: dict[str, tuple[Storage, int]], wreck: Wreck
) -> None:
    """Find the storages by the lengths that the pickle says, where these and the counts agree on the next."""
    keys, said, at = stream.keys, stream.said, stream.storages_at
    counts = NearReader(source)
    if at < 0 or not keys:
        keys = sorted(said)  # as torch writes them
        at = _find_first_count(source, stream.object_end, keys, said)
        if at < 0:
            return

    def count_at(offset: int) -> int | None:
        if offset < 0 or offset + 8 > source.size:
            return None
        return int.from_bytes(counts.read(offset, 8), "little", signed=True)

    for index, key in enumerate(keys):
        if key not in said or key not in storages:
            return
        storage = storages[key][0]
        numel, itemsize, has_view = said[key]
        count = count_at(at)
        if count is None:
            storage.data = None
            _lose(wreck, storage, "the file ends before it")
            at = source.size
            continue
        chosen = count
        if count != numel and not has_view:
            following = said.get(keys[index + 1]) if index + 1 < len(keys) else None
            behind = at + 8 + numel * itemsize
            leads_on = behind == source.size if following is None else count_at(behind) == following[0]
            chosen = numel if leads_on or behind > source.size or not 0 <= count <= source.size else count
            wreck.findings.append(
                Finding(
                    "RK-SALV-04",
                    "wrong-count",
                    Severity.WARNING,
                    f"the count in front of storage {key} says {count:,} elements, the pickle {numel:,}; "
                    f"{chosen:,} are taken" + (", which leads to the next count" if leads_on else ""),
                    why="the count or the bytes before it were changed",
                    where=Where(offset=at),
                )
            )
        size = chosen * itemsize
        if chosen < 0 or at + 8 + size > source.size:
            there = max(source.size - at - 8, 0)
            _lose(wreck, storage, f"the file ends inside it: {there:,} of {max(size, 0):,} bytes are there")
            storage.data = None
            at = source.size
            continue
        storage.size_bytes = size
        storage.data = ByteRange(source, at + 8, size)
        at += 8 + size


def _find_first_count(source: Source, start: int, keys: list[str], said: dict[str, tuple[int, int, bool]]) -> int:
    """Return where the counts begin, with the list of keys broken: where they lead from one to the next; else -1."""
    if start < 0 or not keys or any(has_view for _, _, has_view in said.values()):
        return -1
    reach = 64 + sum(32 + 4 * len(key.encode()) for key in keys)
    window = source.read(start, min(reach, source.size - start))
    first = said[keys[0]][0].to_bytes(8, "little")
    at = window.find(first)
    while at >= 0:
        behind = start + at
        for key in keys:
            numel, itemsize, _ = said[key]
            if behind + 8 > source.size:
                return start + at if behind > start + at else -1
            if source.read(behind, 8) != numel.to_bytes(8, "little"):
                break
            behind += 8 + numel * itemsize
        else:
            return start + at
        at = window.find(first, at + 1)
    return -1


def _lose(wreck: Wreck, storage: Storage, why: str) -> None:
    wreck.decide(storage, Fate(proven=False, why=why))


# ---- the object's pickle is broken


class _Partly:
    """The storages that a pickle names before it breaks, by key."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.dtypes: dict[str, str] = {}

    def persistent(self, pid: Value) -> Value:
        said = read_storage_id(pid)
        if said is None:
            return None
        size = said.numel * said.dtype.itemsize
        storage = self.storages.setdefault(said.key, Storage(said.key, size, None, said.location))
        self.dtypes.setdefault(said.key, said.dtype.name)
        if said.view is not None:
            return StorageRef(storage, said.dtype.name, said.view[1], said.view[2])
        return StorageRef(storage, said.dtype.name, 0, said.numel)


def _without_object(source: Source, limits: Limits) -> Wreck | None:
    """Return the storages of a stream whose object cannot be read; None where they cannot be told."""
    at = 0
    partly = _Partly()
    tree: Value = None
    try:
        for _ in range(3):
            at = run_growing(source, at, limits, lambda: (None, None))[1].end
        program = source.read(at, min(source.size - at, limits.pickle_bytes))
        tree = run_partly(program, persistent=partly.persistent, limits=limits).value
    except UnreadableFile:  # also where it is too much: what it says is not needed
        partly = _Partly()
    for keys, behind in _lists_of_keys(source, at, limits):
        readings = _readings(source, keys, behind, partly)
        if not readings:
            continue
        wreck = Wreck(source.path, torch_stream.NAME, source.size, tree)
        _take(source, keys, readings, partly, wreck)
        return wreck
    return None


def _lists_of_keys(source: Source, start: int, limits: Limits) -> Iterator[tuple[list[str], int]]:
    """Yield (keys, the byte behind them) of what may be the list of keys: a pickled list of texts in order."""
    tried = 0
    for at in _places(source, start, b"\x80"):
        opening = source.read(at, min(12, source.size - at))
        if len(opening) < 2 or not 2 <= opening[1] <= 5 or b"]" not in opening[2:]:
            continue
        tried += 1
        if tried > _MOST_PLACES:
            return
        try:
            outcome = run_growing(source, at, limits, lambda: (None, None))[1]
        except LimitExceeded:
            raise
        except UnreadableFile:
            continue
        keys = outcome.value
        if isinstance(keys, list) and keys and all(isinstance(key, str) for key in keys):
            texts = [str(key) for key in keys]
            if sorted(set(texts)) == texts:
                yield texts, outcome.end


def _places(source: Source, start: int, mark: bytes) -> Iterator[int]:
    while start < source.size:
        window = source.read(start, min(CHUNK_BYTES, source.size - start))
        at = window.find(mark)
        while at >= 0:
            yield start + at
            at = window.find(mark, at + 1)
        start += len(window)


def _readings(source: Source, keys: list[str], start: int, partly: _Partly) -> list[list[tuple[int, int]]]:
    """Return at most two ways to lay the storages up to the end of the file: (offset of the bytes, bytes) of each."""
    known = {key: DTYPES[dtype].itemsize for key, dtype in partly.dtypes.items()}
    dead: set[tuple[int, int]] = set()
    found: list[list[tuple[int, int]]] = []
    # (offset, itemsizes still to try) of each storage on the way, and what was chosen for it.
    chosen: list[tuple[int, int]] = []
    steps = 0

    def choices(index: int, at: int) -> list[int]:
        if at + 8 > source.size or (index, at) in dead:
            return []
        count = int.from_bytes(source.read(at, 8), "little", signed=True)
        sizes = (known[keys[index]],) if keys[index] in known else _ITEMSIZES
        fitting = [count * size for size in sizes if count >= 0 and at + 8 + count * size <= source.size]
        return list(dict.fromkeys(reversed(fitting)))

    way: list[tuple[int, list[int]]] = [(start, choices(0, start))]
    while way and steps < _MOST_STEPS and len(found) < 2:
        steps += 1
        at, rest = way[-1]
        if not rest:
            dead.add((len(way) - 1, at))
            way.pop()
            if chosen:
                chosen.pop()
            continue
        size = rest.pop()
        chosen.append((at + 8, size))
        behind = at + 8 + size
        if len(chosen) == len(keys):
            if behind == source.size:
                found.append(list(chosen))
            chosen.pop()
        else:
            way.append((behind, choices(len(chosen), behind)))
    return found


def _take(
    source: Source, keys: list[str], readings: list[list[tuple[int, int]]], partly: _Partly, wreck: Wreck
) -> None:
    """Give the storages their bytes; those that the object does not name come out flat."""
    named = {node.storage.id for node in distinct_nodes(wreck.tree) if isinstance(node, (Tensor, StorageRef))}
    flat: list[tuple[Value, Value]] = []
    for index, key in enumerate(keys):
        place, size = readings[0][index]
        agreed = all(reading[index] == (place, size) for reading in readings)
        storage = partly.storages.get(key)
        if storage is None or storage.size_bytes > size or key not in named:
            storage = Storage(key, size, None)
            dtype = partly.dtypes.get(key, "uint8")
            flat.append((f"storage_{key}", Tensor(storage, dtype, 0, (size // DTYPES[dtype].itemsize,), (1,))))
        if agreed:
            storage.data, storage.size_bytes = ByteRange(source, place, size), size
            wreck.decide(storage, Fate(proven=False))
        else:
            wreck.decide(storage, Fate(proven=False, why="its length can be read in two ways"))
    tree = wreck.tree
    pairs = list(tree.pairs) if isinstance(tree, Map) else [] if tree is None else [("object", tree)]
    wreck.tree = Map([*pairs, *flat], "OrderedDict")
    wreck.described = "partly" if len(flat) < len(keys) else "lost"
    wreck.findings.append(
        Finding(
            "RK-SALV-03",
            "broken-description",
            Severity.ERROR,
            f"the object's pickle is broken; {len(keys) - len(flat):,} of {len(keys):,} storages are described before "
            "it breaks",
            "bytes of it were overwritten; the lengths in front of the storages lead from one to the next",
            f"with another file of the same model: rekindle salvage {shlex.quote(source.path)} --like OTHER",
        )
    )
