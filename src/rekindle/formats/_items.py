"""`torch.save` files one after another in one file: how torch.distributed.checkpoint writes what a rank has.

Where the description of a folder is there, it says where each item is. Where it is lost, `walk_items` finds them: an
item is a zip archive, and one ends where its directory ends. Its pickle says how long its storages are, so that nothing
is searched for in their bytes.

Facts: PyTorch 2.13 `torch/distributed/checkpoint/filesystem.py` (`_write_item`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding
from rekindle.formats._sources import WindowSource, at_base
from rekindle.formats._storages import read_storage_id
from rekindle.limits import Limits
from rekindle.source import CHUNK_BYTES, Bytes, Source
from rekindle.tensors import DTYPES, Storage, element_count
from rekindle.tree import StorageRef, Tensor, Value, distinct_nodes

__all__ = ["ItemTensor", "looks_whole", "open_item", "walk_items"]

_LOCAL = b"PK\x03\x04"
_CENTRAL = b"PK\x01\x02"
_END64 = b"PK\x06\x06"
_LOCATOR64 = b"PK\x06\x07"
_END = b"PK\x05\x06"


def open_item(source: Source, offset: int, size: int, limits: Limits) -> tuple[Value, list[Finding]]:
    """Read one item and return (object, findings); storages have ids of their own and ranges of the file.

    Raises:
        UnreadableFile: the item is damaged, or does not lie in the file.
    """
    from rekindle.formats import torch_stream, torch_zip  # noqa: PLC0415 - they import this package

    window = WindowSource(source, offset, size, f"the item at byte {offset:,}")
    module = torch_stream if torch_stream.sniff(window.head(64), window) else torch_zip
    opened = module.read(window, limits)
    if not opened.listed:
        worst = opened.findings[0] if opened.findings else None
        raise UnreadableFile(
            worst.what if worst else f"the item at byte {offset:,} cannot be read",
            why=worst.why if worst else "",
            code=worst.code if worst else "",
        )
    seen: set[int] = set()
    for node in distinct_nodes(opened.tree):
        if isinstance(node, (Tensor, StorageRef)) and id(node.storage) not in seen:
            seen.add(id(node.storage))
            node.storage.id = f"{offset}:{node.storage.id}"
            node.storage.data = at_base(node.storage.data)
    return opened.tree, list(opened.findings)


def looks_whole(source: Source, offset: int, size: int) -> bool:
    """Tell whether a range begins and ends as an archive of torch does; two small reads."""
    if size < 22 or offset + size > source.size:
        return False
    return source.read(offset, 4) == _LOCAL and source.read(offset + size - 22, 4) == _END


@dataclass(slots=True)
class ItemTensor:
    """The tensor of an item, whose archive is read when its elements are asked for.

    A folder of a large model has a hundred thousand items; listing it must not open each of them.

    Attributes:
        source: the file.
        offset: first byte of the item.
        length: bytes of the item.
        dtype: what the description says it holds.
        shape: the same.
        limits: caps for reading it.
    """

    source: Source
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]
    limits: Limits
    found: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of bytes of the tensor's elements."""
        return element_count(self.shape) * DTYPES[self.dtype].itemsize

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the elements, row-major and little-endian.

        Raises:
            UnreadableFile: the item is damaged, or holds another tensor than was said.
        """
        yield from self.read((0,) * len(self.shape), self.shape).chunks(chunk_bytes)

    def read(self, start: tuple[int, ...], sizes: tuple[int, ...]) -> Bytes:
        """Return a part of the tensor: `start` is an index, `sizes` a shape.

        Raises:
            UnreadableFile: as `chunks`.
        """
        from rekindle.gather import gather_elements  # noqa: PLC0415

        tensor = self.tensor()
        offset = tensor.offset + sum(i * step for i, step in zip(start, tensor.stride, strict=True))
        return gather_elements(
            tensor.storage,
            tensor.dtype,
            offset,
            sizes,
            tensor.stride,
            conj=tensor.conj,
            neg=tensor.neg,
            name=f"{self.source.path} at byte {self.offset:,}",
        )

    def tensor(self) -> Tensor:
        """Return the tensor as its own archive describes it; read once."""
        if self.found is None:
            value, _ = open_item(self.source, self.offset, self.length, self.limits)
            if not isinstance(value, Tensor) or value.dtype != self.dtype or value.shape != self.shape:
                held = (
                    f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                )
                raise UnreadableFile(
                    f"{self.source.path}: the item at byte {self.offset:,} holds {held}, "
                    f"its description says {self.dtype} {list(self.shape)}",
                    why="files of two saves were mixed, or one was overwritten",
                    code="RK-FILE-48",
                )
            self.found = value
        return self.found


def walk_items(source: Source, limits: Limits) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of the items of a file, in order, without a description; ends where none begins."""
    at = 0
    for _ in range(limits.members):
        if at + 4 > source.size or source.read(at, 4) != _LOCAL:
            return
        end = _end_of_item(source, at, limits)
        if end is None:
            return
        yield at, end - at
        at = end


def _end_of_item(source: Source, at: int, limits: Limits) -> int | None:
    """Return the byte behind an archive that begins at a byte; None where its end cannot be told."""
    from rekindle.formats._growing import run_growing  # noqa: PLC0415
    from rekindle.formats._zip_directory import walk_local_headers  # noqa: PLC0415

    rest = WindowSource(source, at, source.size - at, source.path)
    if rest.size < 30:
        return None
    header = rest.read(0, 30)
    program_at = 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    sizes: dict[str, int] = {}

    def fresh() -> tuple[None, _Persistent]:
        sizes.clear()
        return None, _Persistent(sizes)

    try:
        _, outcome = run_growing(rest, program_at, limits, fresh)
    except LimitExceeded:
        raise
    except UnreadableFile:
        return None
    sizes["data.pkl"] = outcome.end - program_at
    behind = 0
    for _, data_at, size, whole in walk_local_headers(rest, sizes):
        if not whole:
            return None
        behind = data_at + size
    return _end_of_directory(rest, behind, at, limits)


class _Persistent:
    """Notes how long the storages are that a pickle refers to."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes

    def __call__(self, pid: Value) -> Value:
        said = read_storage_id(pid)
        if said is None:
            return None
        size = said.numel * said.dtype.itemsize
        self.sizes[f"data/{said.key}"] = size
        return StorageRef(Storage(said.key, size, None), said.dtype.name, 0, said.numel)


def _end_of_directory(rest: WindowSource, behind: int, at: int, limits: Limits) -> int | None:
    """Follow the directory that stands behind the last record, perhaps behind a data descriptor."""
    here = next(
        (
            behind + skip
            for skip in (0, 16, 24)
            if behind + skip + 4 <= rest.size and rest.read(behind + skip, 4) == _CENTRAL
        ),
        None,
    )
    if here is None:
        return None
    for _ in range(limits.members):
        if here + 4 > rest.size:
            return None
        signature = rest.read(here, 4)
        if signature == _CENTRAL and here + 46 <= rest.size:
            fixed = rest.read(here, 46)
            here += 46 + sum(int.from_bytes(fixed[i : i + 2], "little") for i in (28, 30, 32))
        elif signature == _END64 and here + 12 <= rest.size:
            here += 12 + int.from_bytes(rest.read(here + 4, 8), "little")
        elif signature == _LOCATOR64:
            here += 20
        elif signature == _END and here + 22 <= rest.size:
            end = here + 22 + int.from_bytes(rest.read(here + 20, 2), "little")
            return at + end if end <= rest.size else None
        else:
            return None
    return None
