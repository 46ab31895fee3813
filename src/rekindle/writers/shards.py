"""A model in several files, as Hugging Face names and lists them.

``model.safetensors`` becomes ``model-00001-of-00003.safetensors`` and so on, with ``model.safetensors.index.json``
beside them: ``metadata.total_size`` is the sum of the tensors' bytes, ``weight_map`` says which key lies in which file.
Files are filled in the order of the keys; a tensor that is larger than a file may be has one of its own; tensors that
share their bytes stay together.

Facts: huggingface_hub 0.30 `serialization/_base.py` (`split_state_dict_into_shards_factory`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from rekindle.errors import CannotWrite

__all__ = ["bytes_of_text", "index_name", "index_text", "shard_name", "split"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# Each file is open until all are whole.
_MAX_SHARDS = 500

_T = TypeVar("_T")


def bytes_of_text(text: str) -> int:
    """Return the number of bytes that a size such as ``2GB``, ``500 MB`` or ``1GiB`` means.

    Raises:
        CannotWrite: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if size < 1:
        raise CannotWrite(f"{text!r} is not a size", do="such as --shard 2GB, 500MB or 1GiB")
    return size


def split(items: Iterable[tuple[_T, int]], most: int) -> list[list[_T]]:
    """Return things with their sizes in bytes as groups of at most `most` bytes each, in order.

    Raises:
        CannotWrite: they would be more files than may be open at once.
    """
    groups: list[list[_T]] = []
    filled = total = 0
    for item, size in items:
        if not groups or (filled + size > most and groups[-1]):
            groups.append([])
            filled = 0
        groups[-1].append(item)
        filled += size
        total += size
    if len(groups) > _MAX_SHARDS:
        raise CannotWrite(
            f"{len(groups):,} files of at most {most:,} bytes would be written, {_MAX_SHARDS} is the most",
            # Two files side by side hold more than one may, so this size is surely enough.
            do=f"give --shard a size of at least {2 * total // (_MAX_SHARDS - 1) + 1:,}",
        )
    return groups


def shard_name(target: str, number: int, count: int) -> str:
    """Return the path of one file: 1 of 3 is ``model-00001-of-00003.safetensors``."""
    stem, suffix = os.path.splitext(target)
    return f"{stem}-{number:05}-of-{count:05}{suffix}"


def index_name(target: str) -> str:
    """Return the path of the index: ``model.safetensors.index.json``."""
    return f"{target}.index.json"


def index_text(total_size: int, weight_map: Mapping[str, str]) -> bytes:
    """Return the index of a model: which key lies in which file."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()
