"""What torch wrote from 0.1.10 to 1.5: five pickles, then the storages one after another.

In order: the magic number, the protocol version, facts about the machine, the object, the list of storage keys sorted
as text; then for each key the number of its elements (int64) and its bytes, all little-endian. There is no checksum
and no directory. torch still reads and writes it (``_use_new_zipfile_serialization=False``).

An old torch opens what it knows: `needs_newer_torch` names what a given object asks for beyond torch 1.0.
Facts: PyTorch 1.5 and 2.13 `torch/serialization.py` (`_legacy_save`), release notes for the years of the types.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from zlib import crc32

from rekindle.tensors import DTYPES
from rekindle.tree import SparseTensor, StorageRef, Tensor, Value, distinct_nodes
from rekindle.writers import PIECE_BYTES, Out
from rekindle.writers.pickle_program import Program, StoredStorage, Unfit, program_of, refuse

__all__ = ["needs_newer_torch", "write_program", "write_tree"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MACHINE = {"protocol_version": _PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}

# The first torch that reads a storage class of this type.
_SINCE = {
    "bool": "1.2",
    "bfloat16": "1.2",
    "qint8": "1.3",
    "quint8": "1.3",
    "qint32": "1.3",
    "complex64": "1.6",
    "complex128": "1.6",
    "quint4x2": "1.9",
    "quint2x4": "1.11",
}
_SINCE_UNTYPED = "2.1"  # `_rebuild_tensor_v3`


def write_tree(tree: Value, out: Out, *, unfit: Unfit = refuse) -> None:
    """Write a whole stream that every `torch.load` opens, with ``weights_only`` on or off.

    Args:
        tree: what to write.
        out: takes the bytes from start to end.
        unfit: called with (path, reason) for what cannot be written; see `program_of`.

    Raises:
        CannotWrite: from `refuse`, before anything is written.
    """
    for _ in write_program(program_of(tree, stream=True, unfit=unfit), out):
        pass


def write_program(program: Program, out: Out) -> Iterator[tuple[StoredStorage, int]]:
    """Write a stream, and yield (storage, CRC-32 of its bytes) when each is written."""
    for value in (_MAGIC, _PROTOCOL, _MACHINE):
        out.write(pickle.dumps(value, protocol=2))
    out.write(program.pickle)
    ordered = sorted(program.storages, key=lambda storage: storage.key)
    out.write(pickle.dumps([storage.key for storage in ordered], protocol=2))
    for storage in ordered:
        out.write(struct.pack("<q", storage.numel))
        crc = 0
        for chunk in storage.data.chunks(PIECE_BYTES):
            crc = crc32(chunk, crc)
            out.write(chunk)
        yield storage, crc


def needs_newer_torch(tree: Value) -> dict[str, str]:
    """Return what an old torch would have complained about: name of the type or layout -> first torch that reads it.

    Empty where torch 1.0 opens the stream.
    """
    found: dict[str, str] = {}
    for node in distinct_nodes(tree):
        if isinstance(node, (Tensor, StorageRef)):
            if DTYPES[node.dtype].storage is None:
                found[node.dtype] = _SINCE_UNTYPED
            elif node.dtype in _SINCE:
                found[node.dtype] = _SINCE[node.dtype]
            if isinstance(node, Tensor) and (node.conj or node.neg):
                found["conjugate or negative views"] = "1.11"
        elif isinstance(node, SparseTensor):
            found[node.layout] = "1.1" if node.layout == "sparse_coo" else "1.11"
    return found
