"""`Opened`: the one value that every format reader returns and every verb takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rekindle.finding import Finding
from rekindle.source import ByteRange
from rekindle.tensors import TensorTable
from rekindle.tree import Global, Value

__all__ = ["Member", "Opened"]


# Never changed, and not `frozen`, for the reason of `TensorEntry`.
@dataclass(slots=True, unsafe_hash=True)
class Member:
    """A named part of a container.

    Attributes:
        name: as the container names it.
        data: its bytes in the file.
        crc32: what the container says its CRC-32 is; None where it says nothing.
    """

    name: str
    data: ByteRange
    crc32: int | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A file or folder, read but for the tensors' bytes. Use it in a ``with`` block: it holds files open.

    Attributes:
        path: as it was given.
        format: ``torch-zip``, ``torch-stream``, ``safetensors``, ``snapshot``, ``run``, ``not-a-model``, ...
        size_bytes: size of the file, or of all files of the folder.
        tree: the object as it was saved.
        table: its tensors.
        findings: what is worth saying, in the order found.
        members: parts of the container, in the order of the file.
        facts: what the container knows beyond its tensors: ``byteorder``, ``version``, metadata, ...
        close_files: called by `close`.
        listed: whether the object could be read at all; False for another kind of file and for one cut so early that
            its tensors are unknown. The findings say why.
        globals: every name that its pickles want imported, in order; known of archives, streams and bare pickles.
    """

    path: str
    format: str
    size_bytes: int
    tree: Value
    table: TensorTable
    findings: tuple[Finding, ...] = ()
    members: tuple[Member, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    close_files: Callable[[], None] = lambda: None
    listed: bool = True
    globals: tuple[Global, ...] = ()

    def close(self) -> None:
        """Close the files that the ranges read from."""
        self.close_files()

    def __enter__(self) -> Opened:
        """Return the value itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self.close()
