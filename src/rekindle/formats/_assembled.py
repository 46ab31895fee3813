"""Tensors that lie in pieces: one after another, or as boxes of indices in many files; streamed in bounded memory.

`Concatenated` is the plain case (a flat partition per rank). `Assembled` joins boxes: it goes through the whole tensor
in bands, runs of its row-major bytes of at most `BAND_BYTES`, reads of each box what falls into the band, and copies it
in runs that are as long as the shapes allow. `check_tiling` says beforehand whether the boxes cover every element
exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rekindle.errors import UnreadableFile
from rekindle.source import CHUNK_BYTES, Bytes
from rekindle.tensors import contiguous_stride, element_count
from rekindle.tree import Tensor

__all__ = ["BAND_BYTES", "Assembled", "Box", "Concatenated", "PartReader", "check_tiling"]

BAND_BYTES = 8 * 1024**2

# Cells of the grid that `check_tiling` looks at before it gives up.
_MAX_CELLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Concatenated:
    """Runs of bytes one after another.

    Attributes:
        parts: in order.
    """

    parts: tuple[Bytes, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return sum(part.size for part in self.parts)

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the content in pieces of at most `chunk_bytes`."""
        for part in self.parts:
            yield from part.chunks(chunk_bytes)


@dataclass(frozen=True, slots=True)
class Box:
    """A piece of a tensor.

    Attributes:
        offsets: index of its first element in the whole.
        sizes: its shape.
        read: (first index in the box, shape) -> the elements of that part, row-major and little-endian.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    read: Callable[[tuple[int, ...], tuple[int, ...]], Bytes]


@dataclass(frozen=True, slots=True)
class PartReader:
    """Reads a box of a tensor that lies somewhere as a tensor of its own; what `Box.read` is made of.

    Attributes:
        tensor: the tensor that has it.
        start: index of the box's first element in that tensor.
    """

    tensor: Tensor
    start: tuple[int, ...]

    def __call__(self, start: tuple[int, ...], sizes: tuple[int, ...]) -> Bytes:
        """Return the elements of `sizes` from index `start` of the box on, row-major and little-endian."""
        from rekindle.gather import gather_elements  # noqa: PLC0415 - only when elements are read

        tensor = self.tensor
        inside = sum((a + b) * step for a, b, step in zip(self.start, start, tensor.stride, strict=True))
        return gather_elements(tensor.storage, tensor.dtype, tensor.offset + inside, sizes, tensor.stride)


@dataclass(frozen=True, slots=True)
class Assembled:
    """A tensor's elements, row-major, put together from boxes that tile it (see `check_tiling`).

    Attributes:
        shape: of the whole.
        itemsize: bytes of one element.
        boxes: in any order.
    """

    shape: tuple[int, ...]
    itemsize: int
    boxes: tuple[Box, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return element_count(self.shape) * self.itemsize

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the content in pieces of at most `chunk_bytes`.

        Raises:
            UnreadableFile: a piece cannot be read, or has another size than was said.
        """
        if not self.size:
            return
        if len(self.boxes) == 1:
            yield from _exactly(self.boxes[0].read((0,) * len(self.shape), self.shape), self.size).chunks(chunk_bytes)
            return
        for start, sizes in _bands(self.shape, self.itemsize):
            band = memoryview(bytearray(element_count(sizes) * self.itemsize))
            for box in self.boxes:
                self._copy(box, start, sizes, band)
            for at in range(0, len(band), chunk_bytes):
                yield band[at : at + chunk_bytes]

    def _copy(self, box: Box, start: tuple[int, ...], sizes: tuple[int, ...], band: memoryview) -> None:
        """Copy what a box has of a band."""
        first = tuple(map(max, start, box.offsets))
        stop = tuple(min(a + n, b + m) for a, n, b, m in zip(start, sizes, box.offsets, box.sizes, strict=True))
        common = tuple(end - begin for begin, end in zip(first, stop, strict=True))
        if min(common) <= 0:
            return
        inside = tuple(a - b for a, b in zip(first, box.offsets, strict=True))
        data = _exactly(box.read(inside, common), element_count(common) * self.itemsize)
        piece = memoryview(b"".join(data.chunks()))
        at = tuple(a - b for a, b in zip(first, start, strict=True))
        _scatter(piece, common, band, at, sizes, self.itemsize)


def _exactly(data: Bytes, size: int) -> Bytes:
    if data.size != size:
        raise UnreadableFile(
            f"a piece of a tensor has {data.size:,} bytes where {size:,} are needed",
            why="the description of the pieces and the pieces themselves disagree",
        )
    return data


def _bands(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (first index, shape) of the bands of a tensor, in row-major order; each is one run of its bytes."""
    inner = contiguous_stride(shape)
    most = max(BAND_BYTES // itemsize, 1)
    # The first axis whose single steps fit into a band: axes before it are walked, axes after it are whole.
    axis = next(i for i, step in enumerate(inner) if step <= most)
    rows = max(most // inner[axis], 1)
    for outer in _indices(shape[:axis]):
        for row in range(0, shape[axis], rows):
            count = min(rows, shape[axis] - row)
            rest = len(shape) - axis - 1
            yield (*outer, row, *((0,) * rest)), (*((1,) * axis), count, *shape[axis + 1 :])


def _indices(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield all indices of a shape, row-major, without building lists of the size that a file names."""
    index = [0] * len(shape)
    while True:
        yield tuple(index)
        for axis in range(len(shape) - 1, -1, -1):
            index[axis] += 1
            if index[axis] < shape[axis]:
                break
            index[axis] = 0
        else:
            return


def _scatter(
    piece: memoryview,
    sizes: tuple[int, ...],
    band: memoryview,
    at: tuple[int, ...],
    shape: tuple[int, ...],
    itemsize: int,
) -> None:
    """Copy a contiguous box into a contiguous band of `shape`, at index `at`."""
    steps = contiguous_stride(shape)
    # Trailing axes that the box has whole are one run with the axis before them.
    axis = len(sizes) - 1
    while axis > 0 and sizes[axis] == shape[axis]:
        axis -= 1
    run = element_count(sizes[axis:])
    if axis <= 0:
        first = sum(i * s for i, s in zip(at, steps, strict=True)) * itemsize
        band[first : first + run * itemsize] = piece
        return
    # Rows of the last walked axis: `rows` runs of `run` elements, `step` apart. Where there are more runs than elements
    # in one, copying column by column with a step is one C loop each, whatever their number.
    rows, step = sizes[axis - 1], steps[axis - 1]
    by_column = run < rows and itemsize in {1, 2, 4, 8}
    source = _elements(piece, itemsize) if by_column else piece
    target = _elements(band, itemsize) if by_column else band
    base = sum(i * s for i, s in zip(at, steps, strict=True))
    done = 0
    for outer in _indices(sizes[: axis - 1]):
        first = base + sum(i * s for i, s in zip(outer, steps, strict=False))
        if by_column:
            for column in range(run):
                stop = first + column + (rows - 1) * step + 1
                target[first + column : stop : step] = source[done + column : done + rows * run : run]
        else:
            for row in range(rows):
                to, frm = (first + row * step) * itemsize, (done + row * run) * itemsize
                target[to : to + run * itemsize] = source[frm : frm + run * itemsize]
        done += rows * run


def _elements(view: memoryview, itemsize: int) -> memoryview:
    """Return bytes as whole numbers of a size, so that a copy with a step moves whole elements."""
    match itemsize:
        case 2:
            return view.cast("H")
        case 4:
            return view.cast("I")
        case 8:
            return view.cast("Q")
        case _:
            return view


def check_tiling(shape: tuple[int, ...], boxes: Sequence[Box]) -> str:
    """Return what keeps the boxes from covering every element of a shape exactly once; empty where nothing does.

    The cut positions of all boxes along each axis make a grid; every cell must belong to one box.
    """
    total = element_count(shape)
    for box in boxes:
        if len(box.offsets) != len(shape) or len(box.sizes) != len(shape):
            return f"a piece has {len(box.sizes)} dimensions, the tensor {len(shape)}"
        if any(o < 0 or o + s > n for o, s, n in zip(box.offsets, box.sizes, shape, strict=True)):
            return f"the piece of shape {list(box.sizes)} at {list(box.offsets)} reaches out of {list(shape)}"
    covered = sum(element_count(box.sizes) for box in boxes)
    if covered < total:
        return f"its pieces have {covered:,} of {total:,} elements"
    if covered > total:
        return f"its pieces have {covered:,} elements, more than the {total:,} of the whole, so some overlap"
    if total == 0 or len(boxes) == 1:
        return ""
    cuts = [
        sorted({edge for box in boxes for edge in (box.offsets[axis], box.offsets[axis] + box.sizes[axis])})
        for axis in range(len(shape))
    ]
    place = [{edge: index for index, edge in enumerate(edges)} for edges in cuts]
    seen: set[tuple[int, ...]] = set()
    for box in boxes:
        if not element_count(box.sizes):
            continue
        low = [place[axis][o] for axis, o in enumerate(box.offsets)]
        spans = tuple(
            place[axis][o + s] - low[axis] for axis, (o, s) in enumerate(zip(box.offsets, box.sizes, strict=True))
        )
        if len(seen) + element_count(spans) > _MAX_CELLS:
            return f"its {len(boxes):,} pieces are cut too irregularly to check that they fit together"
        for index in _indices(spans):
            cell = tuple(a + b for a, b in zip(low, index, strict=True))
            if cell in seen:
                return f"two pieces overlap at {[edges[i] for edges, i in zip(cuts, cell, strict=True)]}"
            seen.add(cell)
    return ""  # as many elements as the whole, none twice: every one is covered
