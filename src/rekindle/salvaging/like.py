"""Names and shapes from another file of the same model, for bytes whose own description is lost.

Storages are numbered in the order in which their tensors come, so storage ``17`` of a file is the eighteenth of any
other save of the same model. Where all sizes agree by that order it is used; otherwise a storage is named only when its
size is found once in each file. What does not fit stays nameless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rekindle.finding import Finding, Severity
from rekindle.salvaging import Fate, Wreck
from rekindle.source import ByteRange, Source
from rekindle.tensors import Storage, TensorEntry, TensorTable
from rekindle.tree import Map, StorageRef, Tensor, Value, distinct_nodes

__all__ = ["name_by", "place_by"]


def name_by(wreck: Wreck, table: TensorTable, other: str) -> None:
    """Put the names and shapes of another file's tensors in the place of a description that is lost."""
    mine = _storages(wreck)
    theirs = _groups(table)
    matched = _by_order(mine, theirs) or _by_size(mine, theirs)
    if not matched:
        wreck.findings.append(
            Finding(
                "RK-SALV-05",
                "like-does-not-fit",
                Severity.WARNING,
                f"{other}: none of its tensors has the size of one that is left",
                why="it is a file of another model, or the same one in another element type",
            )
        )
        return
    pairs: list[tuple[Value, Value]] = []
    used: set[int] = set()
    for storage, entries in matched:
        used.add(id(storage))
        fate = wreck.fates.get(id(storage))
        if fate is not None and fate.proven:
            wreck.fates[id(storage)] = Fate(proven=False)  # the bytes are, the name is not
        pairs.extend((entry.key, _tensor(entry, storage)) for entry in entries)
    order = {entry.key: index for index, entry in enumerate(table)}
    pairs.sort(key=lambda pair: order[str(pair[0])])
    rest: list[tuple[Value, Value]] = [
        (f"storage_{storage.id}", Tensor(storage, "uint8", 0, (storage.size_bytes,), (1,)))
        for storage in mine
        if id(storage) not in used
    ]
    wreck.tree = Map([*pairs, *rest], "OrderedDict")
    wreck.described = "by another file"
    wreck.findings.append(
        Finding(
            "RK-SALV-06",
            "named-by-another-file",
            Severity.WARNING,
            f"{len(pairs):,} tensors have the names and shapes of {other}, by their order and size; "
            f"{len(rest):,} storages fit none",
            why="the file's own description is damaged; two tensors of one size that changed places would not show",
        )
    )


def place_by(source: Source, table: TensorTable, base: int) -> list[tuple[str, Tensor, Fate]]:
    """Return the tensors of a safetensors file whose header is lost, where another file of the same layout has them.

    Args:
        source: the damaged file.
        table: of the other file.
        base: the first byte behind the other file's header.
    """
    placed: list[tuple[str, Tensor, Fate]] = []
    for entry in table:
        data = entry.storage.data
        if not isinstance(data, ByteRange):
            continue
        storage = Storage(entry.key, data.size, None)
        fate = Fate(proven=False, why="the file ends before the end of its bytes")
        if data.offset + data.size <= source.size and data.offset >= base:
            storage.data = ByteRange(source, data.offset, data.size)
            fate = Fate(proven=False)
        placed.append((entry.key, _tensor(entry, storage), fate))
    return placed


def _tensor(entry: TensorEntry, storage: Storage) -> Tensor:
    tensor = Tensor(storage, entry.dtype, entry.offset, entry.shape, entry.stride, entry.requires_grad)
    tensor.parameter, tensor.conj, tensor.neg = entry.parameter, entry.conj, entry.neg
    return tensor


def _storages(wreck: Wreck) -> list[Storage]:
    """Return the storages that have bytes, in the order of their numbers."""
    found: dict[int, Storage] = {}
    for node in distinct_nodes(wreck.tree):
        if isinstance(node, (Tensor, StorageRef)) and node.storage.data is not None and node.storage.size_bytes:
            found.setdefault(id(node.storage), node.storage)
    return sorted(found.values(), key=lambda storage: (len(storage.id), storage.id))


def _groups(table: TensorTable) -> list[list[TensorEntry]]:
    """Return the tensors of another file by storage, in their order."""
    groups: dict[int, list[TensorEntry]] = {}
    for entry in table:
        if entry.layout == "strided" and entry.storage.size_bytes:
            groups.setdefault(id(entry.storage), []).append(entry)
    return list(groups.values())


_Matched = list[tuple[Storage, list[TensorEntry]]]


def _by_order(mine: Sequence[Storage], theirs: Sequence[list[TensorEntry]]) -> _Matched:
    by_id = {group[0].storage.id: group for group in theirs}
    numbered = {str(index): group for index, group in enumerate(theirs)}
    in_program = {name.removeprefix("data/"): group for name, group in by_id.items() if name.startswith("data/")}
    for names in (by_id, in_program, numbered):
        matched = [(storage, names[storage.id]) for storage in mine if storage.id in names]
        if len(matched) == len(mine) and all(s.size_bytes == g[0].storage.size_bytes for s, g in matched):
            return matched
    return []


def _by_size(mine: Sequence[Storage], theirs: Sequence[list[TensorEntry]]) -> _Matched:
    counts = Counter(storage.size_bytes for storage in mine)
    by_size: dict[int, list[list[TensorEntry]]] = {}
    for group in theirs:
        by_size.setdefault(group[0].storage.size_bytes, []).append(group)
    return [
        (storage, by_size[storage.size_bytes][0])
        for storage in mine
        if counts[storage.size_bytes] == 1 and len(by_size.get(storage.size_bytes, [])) == 1
    ]
