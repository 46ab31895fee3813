"""Who looks into which storage: views that drag far more bytes into a file than they show, and cutting them loose.

Tensors that share a storage share it after loading too, which is often wanted (tied weights) and sometimes an accident:
five numbers cut from a large tensor bring the whole tensor along.
"""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.gather import gather_elements, part_of
from rekindle.tensors import DTYPES, Storage, contiguous_stride, element_count, span_of
from rekindle.tree import StorageRef, Tensor, Value, distinct_nodes

__all__ = ["Dragged", "dragged_storages", "slim", "untie"]

# Said from a kilobyte of needless bytes on, and only when they are most of the storage.
_NEEDLESS_BYTES = 1024
_RATIO = 4


@dataclass(frozen=True, slots=True)
class Dragged:
    """A storage of which only a small part is looked at.

    Attributes:
        storage: the storage.
        used_bytes: bytes that tensors reach over.
        tensors: how many tensors look into it.
    """

    storage: Storage
    used_bytes: int
    tensors: int


def dragged_storages(tree: Value) -> list[Dragged]:
    """Return the storages that would be written whole for a quarter of their bytes or less."""
    windows: dict[int, tuple[Storage, list[tuple[int, int]]]] = {}
    whole: set[int] = set()
    for node in distinct_nodes(tree):
        if isinstance(node, StorageRef):
            whole.add(id(node.storage))
        elif isinstance(node, Tensor) and node.storage.data is not None and node.storage.size_bytes >= _NEEDLESS_BYTES:
            itemsize = DTYPES[node.dtype].itemsize
            start = node.offset * itemsize
            end = start + span_of(node.shape, node.stride) * itemsize
            windows.setdefault(id(node.storage), (node.storage, []))[1].append((start, end))
    found = []
    for key, (storage, reached) in windows.items():
        used = _union(reached)
        needless = storage.size_bytes - used
        if key not in whole and needless >= _NEEDLESS_BYTES and used * _RATIO <= storage.size_bytes:
            found.append(Dragged(storage, used, len(reached)))
    return found


def untie(tree: Value) -> None:
    """Give every tensor of the tree a storage of its own, in place, with just its own elements.

    A tensor whose elements lie without gaps keeps its stride (transposed, channels last); any other becomes row-major.
    No bytes are read: the new storages collect them when they are written.
    """
    number = 0
    for node in list(distinct_nodes(tree)):
        if not isinstance(node, Tensor) or node.storage.data is None:
            continue
        count, span = element_count(node.shape), span_of(node.shape, node.stride)
        itemsize = DTYPES[node.dtype].itemsize
        if count == span:
            data = gather_elements(node.storage, node.dtype, node.offset, (count,), (1,))
        else:
            data = gather_elements(
                node.storage, node.dtype, node.offset, node.shape, node.stride, conj=node.conj, neg=node.neg
            )
            node.stride = contiguous_stride(node.shape)
            node.conj = node.neg = False
        node.storage = Storage(f"untied-{number}", count * itemsize, data, node.storage.device)
        node.offset = 0
        number += 1


def slim(tree: Value) -> None:
    """Cut every storage down to the bytes that tensors look at, in place; tensors that overlap go on sharing.

    A tensor alone in its bytes that shows only some of them (every tenth column) becomes row-major. No bytes are read.
    """
    windows: dict[int, list[tuple[int, int, Tensor]]] = {}
    whole: set[int] = set()
    for node in list(distinct_nodes(tree)):
        if isinstance(node, StorageRef):
            whole.add(id(node.storage))
        elif isinstance(node, Tensor) and node.storage.data is not None:
            itemsize = DTYPES[node.dtype].itemsize
            start = node.offset * itemsize
            end = start + span_of(node.shape, node.stride) * itemsize
            windows.setdefault(id(node.storage), []).append((start, end, node))
    for key, reached in windows.items():
        if key not in whole:
            for number, group in enumerate(_overlapping(reached)):
                _slim_group(group, number)


def _overlapping(windows: list[tuple[int, int, Tensor]]) -> list[list[tuple[int, int, Tensor]]]:
    """Return the windows in groups that have no byte in common."""
    groups: list[list[tuple[int, int, Tensor]]] = []
    reached = -1
    for window in sorted(windows, key=lambda window: window[:2]):
        if window[0] < reached and groups:
            groups[-1].append(window)
        else:
            groups.append([window])
        reached = max(reached, window[1])
    return groups


def _slim_group(group: list[tuple[int, int, Tensor]], number: int) -> None:
    start, end = min(window[0] for window in group), max(window[1] for window in group)
    first = group[0][2]
    storage = first.storage
    if storage.data is None or (start, end) == (0, storage.size_bytes):
        return
    if len(group) == 1 and element_count(first.shape) < span_of(first.shape, first.stride):
        untie(first)
        first.storage.id = f"{storage.id}-{number}"
        return
    start -= start % max(DTYPES[tensor.dtype].itemsize for _, _, tensor in group)
    data = part_of(storage.data, start, end - start)
    cut = Storage(f"{storage.id}-{number}", end - start, data, storage.device, storage.byteorder)
    for at, _, tensor in group:
        tensor.storage, tensor.offset = cut, (at - start) // DTYPES[tensor.dtype].itemsize


def _union(windows: list[tuple[int, int]]) -> int:
    """Return how many bytes lie in at least one window."""
    total = reached = 0
    for start, end in sorted(windows):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total
