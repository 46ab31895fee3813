"""Between a writer and its file: a thread that writes while the next piece is read and checked.

A core computes about 5 GB/s of CRC-32 and copies memory at twice that; the kernel takes bytes into the page cache at
half of it. Side by side they cost the time of the slower one, and asking the kernel early to bring the pages to the
disk leaves `fsync` little to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING

from rekindle.source import CHUNK_BYTES, ByteRange
from rekindle.store.atomic import FileWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Pipe", "Spliced"]

# Pieces that are read and not yet written, and after how many bytes the kernel is asked to start on them.
_PIECES = 16
_PUSH_BYTES = 32 * 1024**2


class Pipe:
    """Passes bytes on to a thread that writes them, and counts them.

    Reading and checking the next piece then goes on while the kernel takes the last one; a few megabytes are on the
    way at most. A piece that is just a range of the source file is copied by the kernel, and only read here for its
    CRC. What goes wrong in the thread is raised by the next `write`, or at the end of the ``with`` block.

    Args:
        out: the file.
        progress: called with the number of bytes taken so far.
        steady: pieces stay as they are until the block ends (memory of tensors that nobody changes meanwhile), so
            that even writable ones need no copy.

    Attributes:
        done: bytes taken so far, which is where the next piece will lie.
        coming: the range of a file that the next piece is, where it is one.
    """

    def __init__(self, out: FileWriter, progress: Callable[[int], None] | None = None, *, steady: bool = False) -> None:
        """Start the thread."""
        self._out = out
        self._progress = progress
        self._steady = steady
        self._waiting: Queue[memoryview | ByteRange | None] = Queue(_PIECES)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="rekindle-write", daemon=True)
        self._thread.start()
        self.done = 0
        self.coming: ByteRange | None = None

    def write(self, data: Buffer) -> None:
        """Take a piece; one that its owner may still change is copied."""
        view = memoryview(data)
        piece: memoryview | ByteRange = view
        if self.coming is not None and self.coming.size == view.nbytes:
            piece = self.coming
        elif not (view.readonly or self._steady):
            piece = memoryview(bytes(view))
        self.coming = None
        self._waiting.put(piece)
        self.done += view.nbytes
        if self._error is not None:
            raise self._error
        if self._progress is not None:
            self._progress(self.done)

    def __enter__(self) -> Pipe:
        """Return the pipe itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is written, and raise what went wrong meanwhile."""
        self._waiting.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        pushed = 0
        while (piece := self._waiting.get()) is not None:
            if self._error is not None:
                continue  # the rest is taken and dropped, so that nobody waits for ever
            try:
                if isinstance(piece, memoryview):
                    self._out.write(piece)
                else:
                    self._out.copy_from(piece.source.fileno(), piece.offset, piece.size)
                if self._out.size - pushed >= _PUSH_BYTES:
                    pushed = self._out.size
                    self._out.start_writeback()
            except BaseException as error:  # noqa: BLE001 - raised again where somebody waits
                self._error = error


@dataclass(frozen=True, slots=True)
class Spliced:
    """A range of a file whose pieces the kernel copies; they are read into one buffer, for who wants the CRC.

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
        buffer = memoryview(bytearray(min(chunk_bytes, self.size)))
        for at in range(0, self.size, chunk_bytes):
            piece = buffer[: min(chunk_bytes, self.size - at)]
            source.read_into(start + at, piece)
            self.out.coming = ByteRange(source, start + at, len(piece))
            yield piece
