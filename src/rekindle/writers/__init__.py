"""Writers: one file per container, all streaming; none keeps a tensor's bytes in memory.

Every writer takes an `out` with a method `write(bytes-like)` and calls it from start to end, never seeking back, so
that the same code writes to a file, a digest or a socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PIECE_BYTES", "Out"]

# One piece is read, checked and handed on while it is still in the processor's cache.
PIECE_BYTES = 1024**2


class Out(Protocol):
    """Where a writer puts its bytes."""

    def write(self, data: Buffer, /) -> object:
        """Take all bytes of a contiguous buffer, or raise."""
        ...
