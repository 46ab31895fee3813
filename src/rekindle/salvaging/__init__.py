"""Damaged files, one file per container: what of them is whole, and how far that can be proven.

Each module reads a file in spite of what is wrong with it and returns a `Wreck`: the object as far as its description
goes, with bytes behind every storage that is whole and none behind the others, and a `Fate` per storage that says why.

*Whole* means: all bytes that the description asks for are there, and nothing speaks against them. *Proven* means more:
a checksum that the writer put into the file agrees, for the bytes and for the description that names them. Where a
format has no checksum nothing is ever called proven.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rekindle.finding import Finding
from rekindle.tensors import Storage
from rekindle.tree import Value

__all__ = ["Fate", "Gone", "Wreck"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one storage.

    Attributes:
        proven: whether a checksum agrees; False for a storage without bytes.
        why: the reason why it has none, or what speaks against those it has; empty where nothing does.
        damaged: whether it keeps bytes that a checksum speaks against, because that was asked for.
    """

    proven: bool
    why: str = ""
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """Bytes that are lost and that no part of the object stands for.

    Attributes:
        key: what they would have been called.
        why: the reason.
    """

    key: str
    why: str


@dataclass(slots=True)
class Wreck:
    """A damaged file, as far as it goes.

    Attributes:
        path: as it was given.
        format: its container.
        size_bytes: its size.
        tree: the object, or as much of it as is described.
        fates: by ``id`` of the storage; one that is not there was never in doubt and is not proven either.
        storages: the storages that `fates` speaks of, so that they stay alive.
        described: ``whole``, ``mended``, ``doubtful``, ``partly``, ``by another file`` or ``lost``.
        gone: what is lost and not in the tree.
        findings: what is wrong.
        metadata: texts that the container carries beside its tensors.
        close_files: ends the reading.
    """

    path: str
    format: str
    size_bytes: int
    tree: Value = None
    fates: dict[int, Fate] = field(default_factory=dict)
    storages: list[Storage] = field(default_factory=list)
    described: str = "whole"
    gone: list[Gone] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    metadata: Mapping[str, str] = field(default_factory=dict)
    close_files: Callable[[], None] = lambda: None

    def decide(self, storage: Storage, fate: Fate) -> None:
        """Note what became of a storage."""
        self.storages.append(storage)
        self.fates[id(storage)] = fate
