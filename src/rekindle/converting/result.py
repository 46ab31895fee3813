"""What a conversion gives back: the tensors that were written, and what was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rekindle.finding import Finding

__all__ = ["MAX_LOST", "Conversion", "Lost", "Progress", "Written"]

# Losses that are listed one by one.
MAX_LOST = 10_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """One tensor of the new file.

    Attributes:
        key: its name there.
        dtype: its element type, torch's name.
        shape: its sizes.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """Something of the source that the new file does not hold, or holds in another form.

    Attributes:
        key: path through the source's object.
        why: the reason.
        is_tensor: whether tensors are lost, not only plain values or classes.
    """

    key: str
    why: str
    is_tensor: bool = False


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did.

    Attributes:
        source: as it was given.
        target: as it was given.
        container: ``torch-zip``, ``torch-stream`` or ``safetensors``.
        size_bytes: of the new file, or of all shards.
        written: its tensors.
        lost: what it does not hold.
        findings: what is worth knowing.
        files: the files that were written: the target, or the shards and their index, and the values beside it.
        verified: whether the new file was compared with the source.
    """

    source: str
    target: str
    container: str
    size_bytes: int
    written: tuple[Written, ...]
    lost: tuple[Lost, ...]
    findings: tuple[Finding, ...]
    files: tuple[str, ...] = ()
    verified: bool = True
