"""What the tests of readers share: facts of tensors as torch has them, and the laws that hold for any bytes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from fuzzing import variants

from rekindle.errors import UnreadableFile
from rekindle.formats import open_path
from rekindle.gather import gather
from rekindle.opened import Opened
from rekindle.tensors import TensorEntry

__all__ = [
    "copied",
    "digest_of",
    "drained",
    "facts_of",
    "facts_of_all",
    "listed_all",
    "listed_facts",
    "names_of",
    "obeys",
    "variants",
]


def digest_of(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's contiguous little-endian bytes."""
    data = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def facts_of(tensor: torch.Tensor) -> tuple[str, list[int], str]:
    """Return dtype, shape and digest of a torch tensor."""
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape), digest_of(tensor)


def facts_of_all(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, list[int], str]]:
    """Return key -> (dtype, shape, digest) of a state dict."""
    return {key: facts_of(value) for key, value in state.items()}


def listed_facts(entry: TensorEntry) -> tuple[str, list[int], str]:
    """Return dtype, shape and digest of what rekindle lists."""
    running = hashlib.sha256()
    for chunk in gather(entry, conj=entry.conj, neg=entry.neg).chunks():
        running.update(chunk)
    return entry.dtype, list(entry.shape), running.hexdigest()


def listed_all(opened: Opened) -> dict[str, tuple[str, list[int], str]]:
    """Return key -> (dtype, shape, digest) of all tensors that have their bytes."""
    return {entry.key: listed_facts(entry) for entry in opened.table if entry.storage.data or not entry.numel}


def drained(opened: Opened) -> int:
    """Read every tensor that has bytes; damaged ones may only say so. Return how many could be read."""
    read = 0
    for entry in opened.table:
        try:
            for _ in gather(entry).chunks():
                pass
        except UnreadableFile:
            continue
        read += 1
    return read


def names_of(opened: Opened) -> list[str]:
    """Return the names of the findings, in order."""
    return [finding.name for finding in opened.findings]


def obeys(path: Path) -> Opened | None:
    """Open a file or folder and read all of it: a value and findings, or our one error (None); nothing else.

    Returns:
        The value, closed.
    """
    try:
        with open_path(path) as opened:
            drained(opened)
            return opened
    except UnreadableFile:
        return None


def copied(folder: Path, target: Path) -> Path:
    """Copy a folder; what was there is replaced."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(folder, target)
    return target
