"""Who looks into which storage: views that drag far more bytes into a file than they show, and cutting them loose.

Tensors that share a storage share it after loading too, which is often wanted (tied weights) and sometimes an accident:
five numbers cut from a large tensor bring the whole tensor along.
"""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.gather import gather_elements
from rekindle.tensors import DTYPES, Storage, contiguous_stride, element_count, span_of
from rekindle.tree import StorageRef, Tensor, Value, distinct_nodes

__all__ = ["Dragged", "dragged_storages", "untie"]

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
        elif isinstance(node, Tensor) and node.storage.data is not None:
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


def _union(windows: list[tuple[int, int]]) -> int:
    """Return how many bytes lie in at least one window."""
    total = reached = 0
    for start, end in sorted(windows):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total
