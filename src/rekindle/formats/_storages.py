"""Persistent ids of storages: what both torch containers share.

A pickle refers to the bytes of its tensors by ``("storage", storage class, key, location, number of elements)``, old
streams with a sixth part, the view. Everything in it is the file's word and checked here; a class or a key of another
form is a finding and a storage without bytes, never an exception.

Facts: PyTorch 2.13 and 1.5 `torch/serialization.py` (`persistent_id`, `persistent_load`).
"""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.finding import Finding, Severity, Where
from rekindle.tensors import DTYPE_OF_STORAGE, DTYPES, DType
from rekindle.tree import Global, Value

__all__ = ["StorageId", "odd_persistent_id", "read_storage_id", "text_of"]

_UNTYPED = frozenset(("UntypedStorage", "_UntypedStorage"))
_MODULES = frozenset(("torch", "torch.cuda", "torch.storage", "torch.sparse", "torch.cuda.sparse"))
# Numbers over 64 bit are refused in sizes; torch counts bytes in a signed 64-bit integer.
_MAX_BYTES = 2**63 - 1
_SMALL = 2**58  # elements that are below `_MAX_BYTES` whatever their size


@dataclass(slots=True)
class StorageId:
    """What a persistent id says of a storage.

    Attributes:
        key: its name in this file.
        dtype: its element type; ``uint8`` for an untyped storage.
        location: where it lay, as text.
        numel: number of elements.
        view: (key of the view, offset, number of elements) or None; only in old streams.
    """

    key: str
    dtype: DType
    location: str
    numel: int
    view: tuple[str, int, int] | None = None


def text_of(value: Value) -> str | None:
    """Return a text, also where Python 2 wrote it as bytes; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None


def read_storage_id(pid: Value) -> StorageId | None:
    """Return what a persistent id says, None where it has another form than torch writes."""
    # What torch writes today; the hot lines of a long listing.
    if type(pid) is tuple and pid and pid[0] == "storage" and (len(pid) == 5 or (len(pid) == 6 and pid[5] is None)):
        kind, key, location, numel = pid[1:5]
        if type(key) is str and type(location) is str and type(numel) is int and 0 <= numel < _SMALL:
            dtype = _dtype_of(kind)
            return None if dtype is None else StorageId(key, dtype, location, numel)
    if not isinstance(pid, (tuple, list)) or len(pid) not in {5, 6} or text_of(pid[0]) != "storage":
        return None
    dtype = _dtype_of(pid[1])
    key = text_of(pid[2]) if not isinstance(pid[2], int) else str(pid[2])
    location = text_of(pid[3])
    numel = pid[4]
    if dtype is None or key is None or location is None or not _is_count(numel, dtype):
        return None
    view = _read_view(pid[5], dtype) if len(pid) == 6 else None
    if len(pid) == 6 and pid[5] is not None and view is None:
        return None
    return StorageId(key, dtype, location, int(numel), view)  # type: ignore[arg-type]  # _is_count saw to it


def odd_persistent_id(pid: Value) -> Finding:
    """Return the finding for a persistent id that torch would not write."""
    kind = text_of(pid[0]) if isinstance(pid, (tuple, list)) and pid else None
    return Finding(
        "RK-FILE-08",
        "odd-arguments",
        Severity.WARNING,
        f"the pickle refers to something outside it as {kind or type(pid).__name__!r}, as torch never does",
        why="another program wrote this pickle, or it was made up",
        where=Where(),
    )


def _dtype_of(storage_class: Value) -> DType | None:
    if not isinstance(storage_class, Global) or storage_class.module not in _MODULES:
        return None
    if storage_class.name in _UNTYPED:
        return DTYPES["uint8"]
    return DTYPE_OF_STORAGE.get(storage_class.name)


def _read_view(view: Value, dtype: DType) -> tuple[str, int, int] | None:
    if not isinstance(view, (tuple, list)) or len(view) != 3:
        return None
    key = text_of(view[0]) if not isinstance(view[0], int) else str(view[0])
    offset, numel = view[1], view[2]
    if key is None or not _is_count(offset, dtype) or not _is_count(numel, dtype):
        return None
    return key, int(offset), int(numel)  # type: ignore[arg-type]  # _is_count saw to it


def _is_count(value: Value, dtype: DType) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value * dtype.itemsize <= _MAX_BYTES
