"""Old torch streams that are cut or overwritten.

There is no checksum, so nothing is ever proven: what vouches for a storage is that the element count in front of it is
the one that the pickle says, and that the next count stands where this storage ends. A count that disagrees is taken
for damaged when the pickle's own number leads to the next one, so that one wrong byte does not shift all that follows.
The object's pickle comes first: where it breaks off there is nothing behind it to rescue.

Facts: PyTorch 1.5 `torch/serialization.py` (`_legacy_save`: counts are int64, little-endian).
"""

from __future__ import annotations

from rekindle.finding import Finding, Severity, Where
from rekindle.formats import torch_stream
from rekindle.limits import Limits
from rekindle.salvaging import Fate, Wreck
from rekindle.source import ByteRange, NearReader, Source
from rekindle.tensors import Storage
from rekindle.tree import StorageRef, Tensor, distinct_nodes

__all__ = ["explore"]


def explore(source: Source, limits: Limits) -> Wreck | None:
    """Return what is left of a stream; None where its object cannot be read.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    stream = torch_stream.read_stream(source, limits)
    if not stream.listed:
        return None
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
