"""A tensor's elements, row-major without gaps and little-endian, as a stream: in bounded memory, without NumPy.

A tensor is a shape and a stride over a storage, so its elements may lie transposed, repeated or with gaps between
them. Most tensors lie as they should: then the result is the very range of the file. For the others the elements are
collected block by block. A block is a run of the result, at most `BLOCK_BYTES` long; its source elements form a box of
indices, and a box whose elements lie far apart is cut across its widest stride into slabs, until what must be read
holds enough elements that are wanted. Copying is done by slices with a step over memory views, one C loop each, along
the longest side of the slab.

Law: memory stays below a few blocks whatever the sizes, and every byte that is handed out was in the storage, but for
the order of bytes of big-endian files and the sign bits of lazily conjugated or negated tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal

from rekindle.errors import UnreadableFile
from rekindle.source import CHUNK_BYTES, BufferBytes, ByteRange, Bytes
from rekindle.tensors import DTYPES, Storage, contiguous_stride, element_count, span_of

if TYPE_CHECKING:
    from rekindle.tensors import TensorEntry

__all__ = ["BLOCK_BYTES", "gather", "gather_elements"]

BLOCK_BYTES = 24 * 1024**2

# A box is read at once when its span is small, or when at least a sixteenth of the span is wanted: reading 15 needless
# bytes from the page cache costs less than one more call for a few wanted ones.
_READ_BYTES = 8 * 1024**2
_SMALL_SPAN_BYTES = 4096
_WASTE = 16

# Elements of one copy with a step: their cache lines must survive until the next copy touches their neighbours, also
# when the step is a power of two and they all fall into the same few sets of the cache.
_TILE = 128

# memoryview formats by element size; 16 bytes have none and are copied as two halves.
_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q", 16: "Q"}


def gather(entry: TensorEntry, *, conj: bool = False, neg: bool = False) -> Bytes:
    """Return the tensor's elements in row-major order, little-endian.

    Args:
        entry: the tensor.
        conj: hand out the complex conjugates of what is stored.
        neg: hand out the negatives of what is stored.

    Raises:
        UnreadableFile: the storage has no bytes, or fewer than the tensor reaches over.
    """
    return gather_elements(
        entry.storage, entry.dtype, entry.offset, entry.shape, entry.stride, conj=conj, neg=neg, name=entry.key
    )


def gather_elements(
    storage: Storage,
    dtype: str,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    *,
    conj: bool = False,
    neg: bool = False,
    name: str = "",
) -> Bytes:
    """Return elements of a storage in row-major order, little-endian; see `gather`.

    Args:
        storage: where they are.
        dtype: name in `rekindle.tensors.DTYPES`.
        offset: the first element, in elements.
        shape: sizes.
        stride: in elements, none negative.
        conj: hand out the complex conjugates.
        neg: hand out the negatives.
        name: the tensor's key, for messages.

    Raises:
        UnreadableFile: the storage has no bytes, or fewer than are reached over.
    """
    kind = DTYPES[dtype]
    count = element_count(shape)
    if count == 0:
        return BufferBytes(memoryview(b""))
    span = span_of(shape, stride)
    data = storage.data
    if data is None:
        raise UnreadableFile(f"{name or 'a tensor'}: its storage {storage.id} has no bytes in the file")
    if offset < 0 or min(stride, default=0) < 0 or (offset + span) * kind.itemsize > data.size:
        raise UnreadableFile(
            f"{name or 'a tensor'}: reaches over bytes {offset * kind.itemsize:,} to "
            f"{(offset + span) * kind.itemsize:,} of its storage {storage.id}, which has {data.size:,}",
            why="the file was cut short, or a number in it is wrong",
        )
    sides = _merge(shape, stride)
    result: Bytes
    if not sides or (len(sides) == 1 and sides[0][1] == 1):
        result = part_of(data, offset * kind.itemsize, count * kind.itemsize)
    else:
        result = _Collected(_RandomAccess(data), offset, sides, kind.itemsize)
    if storage.byteorder == "big" and kind.component > 1:
        result = _Swapped(result, kind.component)
    mask = _sign_mask(kind.itemsize, kind.component, conj=conj, neg=neg)
    return _Masked(result, mask) if any(mask) else result


def part_of(data: Bytes, offset: int, size: int) -> Bytes:
    """Return a part of a run of bytes, without reading it."""
    if offset == 0 and size == data.size:
        return data
    if isinstance(data, ByteRange):
        return data.sub(offset, size)
    if isinstance(data, BufferBytes):
        return BufferBytes(data.view[offset : offset + size])
    sub = getattr(data, "sub", None)  # whatever else knows how to give a part of itself
    if sub is not None:
        part: Bytes = sub(offset, size)
        return part
    return _Part(data, offset, size)


def _merge(shape: tuple[int, ...], stride: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (size, stride) of the fewest sides that walk the same elements in the same order."""
    sides: list[tuple[int, int]] = []
    for size, step in zip(shape, stride, strict=True):
        if size == 1:
            continue
        if sides and sides[-1][1] == step * size:
            sides[-1] = (sides[-1][0] * size, step)
        else:
            sides.append((size, step))
    return sides


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of something that can only be streamed (a compressed record)."""

    data: Bytes
    offset: int
    size: int

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        skip, left = self.offset, self.size
        for chunk in self.data.chunks(chunk_bytes):
            piece = chunk[skip : skip + left]
            skip = max(skip - len(chunk), 0)
            left -= len(piece)
            if len(piece):
                yield piece
            if not left:
                return


@dataclass(frozen=True, slots=True)
class _Swapped:
    """The same elements in the other byte order; `component` bytes are swapped together."""

    data: Bytes
    component: int

    @property
    def size(self) -> int:
        return self.data.size

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        for chunk in _whole_elements(self.data, chunk_bytes, self.component):
            swapped = bytearray(len(chunk))
            for byte in range(self.component):
                swapped[byte :: self.component] = chunk[self.component - 1 - byte :: self.component]
            yield memoryview(swapped).toreadonly()


@dataclass(frozen=True, slots=True)
class _Masked:
    """The same elements with some sign bits turned; the mask is one element long."""

    data: Bytes
    mask: bytes

    @property
    def size(self) -> int:
        return self.data.size

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        for chunk in _whole_elements(self.data, chunk_bytes, len(self.mask)):
            mask = int.from_bytes(self.mask * (len(chunk) // len(self.mask)), "little")
            yield memoryview((int.from_bytes(chunk, "little") ^ mask).to_bytes(len(chunk), "little"))


def _sign_mask(itemsize: int, component: int, *, conj: bool, neg: bool) -> bytes:
    """Return which bits to turn in one little-endian element: signs of all parts, or of the imaginary one."""
    sign = bytes(component - 1) + b"\x80"
    keep = bytes(component)
    parts = itemsize // component
    if parts == 1:
        return sign if neg else keep
    return (sign if neg else keep) + (sign if neg != conj else keep)


def _whole_elements(data: Bytes, chunk_bytes: int, itemsize: int) -> Iterator[memoryview]:
    """Yield the chunks so that none ends inside an element."""
    rest = b""
    for chunk in data.chunks(max(chunk_bytes - chunk_bytes % itemsize, itemsize)):
        whole = memoryview(rest + bytes(chunk)) if rest else chunk
        cut = len(whole) - len(whole) % itemsize
        rest = bytes(whole[cut:])
        if cut:
            yield whole[:cut]


class _RandomAccess:
    """Reads of any part of a run of bytes. What can only be streamed is put into a temporary file first."""

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self._spool: BinaryIO | None = None

    def read(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes from `offset`."""
        data = self._data
        if isinstance(data, ByteRange):
            return memoryview(data.source.read(data.offset + offset, length))
        if isinstance(data, BufferBytes):
            return data.view[offset : offset + length]
        if hasattr(data, "sub"):
            return memoryview(b"".join(part_of(data, offset, length).chunks()))
        return self._from_spool(offset, length)

    def close(self) -> None:
        """Remove the temporary file; the next read makes it again."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _from_spool(self, offset: int, length: int) -> memoryview:
        import tempfile  # noqa: PLC0415 - only compressed records with transposed tensors come here

        if self._spool is None:
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - `close` ends it
            for chunk in self._data.chunks():
                self._spool.write(chunk)
        self._spool.seek(offset)
        return memoryview(self._spool.read(length))


@dataclass(frozen=True, slots=True)
class _Box:
    """A box of indices: where its first element lies in the storage and in the block, in elements, and its sides.

    Attributes:
        offset: first element in the storage.
        at: first element in the block.
        sides: (size, stride in the storage, stride in the block).
    """

    offset: int
    at: int
    sides: tuple[tuple[int, int, int], ...]

    @property
    def span(self) -> int:
        return 1 + sum((size - 1) * step for size, step, _ in self.sides)

    def is_dense(self, itemsize: int) -> bool:
        """Whether its span may be read at once."""
        span = self.span
        # A side with stride 0 repeats one element, so it adds nothing that is wanted.
        wanted = element_count(size for size, step, _ in self.sides if step)
        return span * itemsize <= _SMALL_SPAN_BYTES or (span * itemsize <= _READ_BYTES and span <= _WASTE * wanted)


@dataclass(frozen=True, slots=True)
class _Collected:
    """Elements that do not lie in order, collected block by block."""

    source: _RandomAccess
    offset: int
    sides: list[tuple[int, int]]
    itemsize: int

    @property
    def size(self) -> int:
        return element_count(size for size, _ in self.sides) * self.itemsize

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        try:
            for count, box in self._blocks(BLOCK_BYTES // self.itemsize):
                block = memoryview(bytearray(count * self.itemsize))
                self._fill(box, block.cast(_FORMATS[self.itemsize]))
                done = block.toreadonly()
                for at in range(0, len(done), chunk_bytes):
                    yield done[at : at + chunk_bytes]
        finally:
            self.source.close()

    def _blocks(self, elements: int) -> Iterator[tuple[int, _Box]]:
        """Yield the runs of the result: how many elements, at most `elements`, and the box that they are."""
        steps_out = contiguous_stride(tuple(size for size, _ in self.sides))
        # The first axis whose single steps fit: the axes before it are walked, the axes after it are whole.
        axis = next(i for i, step_out in enumerate(steps_out) if step_out <= elements)
        rows = elements // steps_out[axis]
        inner = tuple((*side, step_out) for side, step_out in zip(self.sides, steps_out, strict=True))[axis + 1 :]
        length, step = self.sides[axis]
        for start, _ in _offset_pairs([(*side, 0) for side in self.sides[:axis]]):
            for row in range(0, length, rows):
                count = min(rows, length - row)
                sides = ((count, step, steps_out[axis]), *inner)
                yield count * steps_out[axis], _Box(self.offset + start + row * step, 0, sides)

    def _fill(self, box: _Box, block: memoryview) -> None:
        """Copy the elements of a box into the block (cast to elements, or to halves of them)."""
        if box.is_dense(self.itemsize):
            self._copy_slabs(box, (1, 0, 0), block)
            return
        axis = max(range(len(box.sides)), key=lambda i: (box.sides[i][0] > 1, box.sides[i][1]))
        size, step, step_out = box.sides[axis]
        rest = _Box(box.offset, box.at, box.sides[:axis] + box.sides[axis + 1 :])
        if not rest.is_dense(self.itemsize):
            for index in range(size):
                self._fill(_Box(box.offset + index * step, box.at + index * step_out, rest.sides), block)
            return
        group = 1
        while group * 2 <= size and _Box(0, 0, ((group * 2, step, 0), *rest.sides)).is_dense(self.itemsize):
            group *= 2
        slab = _Box(box.offset, box.at, ((group, step, step_out), *rest.sides))
        self._copy_slabs(slab, (size // group, group * step, group * step_out), block)
        if size % group:
            done = size - size % group
            tail = ((size % group, step, step_out), *rest.sides)
            self._copy_slabs(_Box(box.offset + done * step, box.at + done * step_out, tail), (1, 0, 0), block)

    def _copy_slabs(self, slab: _Box, repeat: tuple[int, int, int], block: memoryview) -> None:
        """Copy a slab and its repetitions: `repeat` is (how many, stride in the storage, stride in the block)."""
        scale = 2 if self.itemsize == 16 else 1
        form = _FORMATS[self.itemsize]
        itemsize, read = self.itemsize, self.source.read
        span_bytes = slab.span * itemsize
        count, step, step_out = repeat
        plan = _copy_plan(slab.sides, scale)
        for index in range(count):
            raw = read((slab.offset + index * step) * itemsize, span_bytes).cast("B").cast(form)
            target = block[(slab.at + index * step_out) * scale :]
            for start, stop, step_in, into, repeats in plan:
                piece = raw[start:stop:step_in]
                target[into] = piece if repeats == 1 else memoryview(bytes(piece) * repeats).cast(form)


def _copy_plan(sides: tuple[tuple[int, int, int], ...], scale: int) -> list[tuple[int, int, int, slice, int]]:
    """Return the copies that make a box: (start, stop, step in the span; slice of the block; repetitions)."""
    if not sides:
        sides = ((1, 1, 1),)
    axis = max(range(len(sides)), key=lambda i: sides[i][0])
    size, step, step_out = sides[axis]
    others = [side for i, side in enumerate(sides) if i != axis]
    tile = size if max(step, step_out) == 1 else _TILE
    plan = []
    for row in range(0, size, tile):
        count = min(tile, size - row)
        for start, start_out in _offset_pairs(others):
            for half in range(scale):
                at = (start + row * step) * scale + half
                at_out = (start_out + row * step_out) * scale + half
                into = slice(at_out, at_out + (count - 1) * step_out * scale + 1, step_out * scale)
                if step:
                    plan.append((at, at + (count - 1) * step * scale + 1, step * scale, into, 1))
                else:
                    plan.append((at, at + 1, 1, into, count))
    return plan


def _offset_pairs(sides: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (offset in the storage, offset in the block) of all indices of a box, row-major."""
    if not sides:
        yield 0, 0
        return
    size, step, step_out = sides[0]
    for index in range(size):
        for rest, rest_out in _offset_pairs(sides[1:]):
            yield index * step + rest, index * step_out + rest_out
