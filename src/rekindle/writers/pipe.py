"""Between a writer and its file: a thread that writes while the next piece is read and checked.

A core computes about 5 GB/s of CRC-32 and copies memory at twice that; the kernel takes bytes into the page cache at
half of it. Side by side they cost the time of the slower one, and asking the kernel early to bring the pages to the
disk leaves `fsync` little to wait for. Where it is asked for, the thread also reads back what it has just written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from rekindle.source import CHUNK_BYTES, ByteRange, Bytes
from rekindle.store.atomic import FileWriter
from rekindle.writers.read_back import ReadBack

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Lent", "Pipe", "Span"]

# Pieces go to the thread by the megabyte, since waking it costs as much as checking one of a few kilobytes. So much is
# under way at most, and so much is in the file when the kernel is asked to start on it.
_BATCH_BYTES = 1024**2
_BATCHES = 8
_PUSH_BYTES = 8 * 1024**2
# A buffer of the pipe's own: what is read into it, checked and written stays in a core's cache.
_LENT_BYTES = 256 * 1024
_BUFFERS = _BATCHES * _BATCH_BYTES // _LENT_BYTES

_Piece: TypeAlias = "tuple[memoryview, int | None, memoryview | None]"


class Pipe:
    """Passes bytes on to a thread that writes them, and counts them.

    Reading and checking the next piece then goes on while the kernel takes the last one; a few megabytes are on the
    way at most. What goes wrong in a thread is raised by the next `write`, or at the end of the ``with`` block.

    Args:
        out: the file.
        progress: called with the number of bytes taken so far.
        steady: pieces stay as they are until the block ends (memory of tensors that nobody changes meanwhile), so
            that even writable ones need no copy.
        read_back: read every `Span` again as soon as it is written.

    Attributes:
        done: bytes taken so far, which is where the next piece will lie.
        lent: the buffer that the next piece lies in, where it is one of the pipe's own.
        span: where the span began that the next piece belongs to; None where it belongs to none.
    """

    def __init__(
        self,
        out: FileWriter,
        progress: Callable[[int], None] | None = None,
        *,
        steady: bool = False,
        read_back: bool = False,
    ) -> None:
        """Start the thread."""
        self._out = out
        self._progress = progress
        self._steady = steady
        self._back = ReadBack(out.path) if read_back else None
        self._waiting: Queue[list[_Piece] | None] = Queue(_BATCHES)
        self._batch: list[_Piece] = []
        self._batch_bytes = 0
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._buffers = 0
        self._pushed = 0
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="rekindle-write", daemon=True)
        self._thread.start()
        self.done = 0
        self.lent: memoryview | None = None
        self.span: int | None = None

    @property
    def crcs(self) -> dict[int, int]:
        """Where each span begins -> the CRC-32 of its bytes as the file gives them back, after the block."""
        return {} if self._back is None else self._back.crcs

    def lend(self) -> memoryview:
        """Return a buffer of 256 kB to read the next piece into; `write` takes it back without a copy."""
        if self.lent is None:
            if self._buffers < _BUFFERS and self._free.empty():
                self._buffers += 1
                self.lent = memoryview(bytearray(_LENT_BYTES))
            else:
                self._hand_over()  # every buffer is filled; the thread gives them back
                self.lent = self._free.get()
        return self.lent

    def write(self, data: Buffer) -> None:
        """Take a piece; one that its owner may still change is copied."""
        view = memoryview(data)
        lent = None
        if self.lent is not None and view.obj is self.lent.obj:
            lent, self.lent = self.lent, None
        elif not (view.readonly or self._steady):
            view = memoryview(bytes(view))
        self._batch.append((view, self.span, lent))
        self._batch_bytes += view.nbytes
        self.done += view.nbytes
        if self._batch_bytes >= _BATCH_BYTES:
            self._hand_over()
        if self._error is not None:
            raise self._error
        if self._progress is not None:
            self._progress(self.done)

    def _hand_over(self) -> None:
        if self._batch:
            self._waiting.put(self._batch)
            self._batch, self._batch_bytes = [], 0

    def __enter__(self) -> Pipe:
        """Return the pipe itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is written and read back, and raise what went wrong meanwhile."""
        self._hand_over()
        self._waiting.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (batch := self._waiting.get()) is not None:
            for piece, span, lent in batch:
                if self._error is None:  # else the rest is taken and dropped, so that nobody waits for ever
                    self._keeping_errors(self._take, piece, span)
                if lent is not None:
                    self._free.put(lent)
        if self._back is not None:
            if self._error is None:
                self._keeping_errors(self._back.finish)
            self._back.close()

    def _take(self, piece: memoryview, span: int | None) -> None:
        place = self._out.size
        self._out.write(piece)
        if self._back is not None and span is not None:
            self._back.add(span, place, piece.nbytes)
        if self._out.size - self._pushed >= _PUSH_BYTES:
            self._pushed = self._out.size
            self._out.start_writeback()

    def _keeping_errors(self, work: Callable[..., None], *args: object) -> None:
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001 - raised again where somebody waits
            self._error = error


@dataclass(frozen=True, slots=True)
class Lent:
    """A range of a file whose pieces are read into buffers of the pipe that they go to: no memory is made for each.

    Attributes:
        data: the range.
        out: where its pieces go, one by one, as they are yielded.
    """

    data: ByteRange
    out: Pipe

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.data.size

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the pieces; each must be written to `out` before the next is asked for."""
        source, start = self.data.source, self.data.offset
        step = min(chunk_bytes, _LENT_BYTES)
        for at in range(0, self.size, step):
            piece = self.out.lend()[: min(step, self.size - at)]
            source.read_into(start + at, piece)
            yield piece


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes that belong together in the new file: those of one tensor, or of one storage.

    Attributes:
        data: the bytes.
        out: where they go; it reads them back as one span, where it reads back.
    """

    data: Bytes
    out: Pipe

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.data.size

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the pieces; each must be written to `out` before the next is asked for."""
        self.out.span = self.out.done
        try:
            yield from self.data.chunks(chunk_bytes)
        finally:
            self.out.span = None
