"""The files around a conversion: which container a name asks for, what stands in its way, what was there before.

Facts: `model-00001-of-00003.safetensors` and its index are named as Hugging Face's `huggingface_hub` names them.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rekindle.errors import CannotWrite, UnreadableFile
from rekindle.limits import Limits
from rekindle.source import ByteRange, Source
from rekindle.tensors import TensorTable
from rekindle.writers.shards import index_name

if TYPE_CHECKING:
    from rekindle.converting.job import Job

__all__ = [
    "CONTAINERS",
    "CONTAINER_OF_SUFFIX",
    "HUB_NAMES",
    "clear_former",
    "container_for",
    "files_of_index",
    "refuse_changed",
    "refuse_existing",
    "require_room",
    "states_of",
]

CONTAINERS = ("torch-zip", "torch-stream", "safetensors")
CONTAINER_OF_SUFFIX = {
    ".pth": "torch-zip",
    ".pt": "torch-zip",
    ".bin": "torch-zip",
    ".ckpt": "torch-zip",
    ".safetensors": "safetensors",
}
# What a model in a folder is called there.
HUB_NAMES = {"safetensors": "model.safetensors", "torch-zip": "pytorch_model.bin"}


def container_for(target: str, to: str | None = None) -> str:
    """Return the container to write: the one asked for, or the one that the suffix names.

    Raises:
        CannotWrite: `to` is no container, or the suffix says nothing.
    """
    if to is not None:
        if to not in CONTAINERS:
            raise CannotWrite(f"{to!r} is not a container that rekindle writes", do="one of " + ", ".join(CONTAINERS))
        return to
    suffix = os.path.splitext(target)[1].lower()
    if suffix not in CONTAINER_OF_SUFFIX:
        raise CannotWrite(
            f"{target}: the suffix {suffix!r} does not say which container to write"
            if suffix
            else f"{target}: without a suffix it is not said which container to write",
            do=f"--to {' or --to '.join(CONTAINERS)}, or a name that ends in {', '.join(CONTAINER_OF_SUFFIX)}",
        )
    return CONTAINER_OF_SUFFIX[suffix]


def files_of_index(index: str, limits: Limits) -> tuple[str, ...]:
    """Return the files beside an index that it lists, where one is there: the result of an earlier conversion."""
    try:
        with Source(index) as source:
            if source.size > limits.header_bytes:
                return ()
            said = json.loads(source.read(0, source.size))
    except (OSError, UnreadableFile, ValueError, RecursionError):
        return ()
    places = said.get("weight_map") if isinstance(said, dict) else None
    names = sorted({name for name in places.values() if isinstance(name, str)}) if isinstance(places, dict) else []
    stem, suffix = os.path.splitext(os.path.basename(index.removesuffix(".index.json")))
    ours = re.compile(re.escape(stem) + r"-[0-9]{5}-of-[0-9]{5}" + re.escape(suffix))
    folder = os.path.dirname(index)
    return tuple(os.path.join(folder, name) for name in names if ours.fullmatch(name))


def refuse_existing(target: str, again: str, *, force: bool) -> None:
    """Raise where something is in the way.

    Args:
        target: the file that will be written.
        again: the command that replaces it.
        force: whether a file may be there.

    Raises:
        CannotWrite: there is a folder at `target`, or a file that nobody said may go.
    """
    if os.path.isdir(target):
        raise CannotWrite(f"{target}: is a folder", do="give the name of a file in it")
    if not force and os.path.lexists(target):
        raise CannotWrite(
            f"{target}: there is a file of this name already",
            why="nothing is replaced unless you say so",
            do=again,
        )


def states_of(table: TensorTable) -> list[tuple[Source, tuple[int, int]]]:
    """Return the files that the tensors lie in, each with its state now."""
    ranges = [entry.storage.data for entry in table if isinstance(entry.storage.data, ByteRange)]
    return [(source, _state_of(source)) for source in {id(data.source): data.source for data in ranges}.values()]


def _state_of(source: Source) -> tuple[int, int]:
    status = os.fstat(source.fileno())
    return status.st_size, status.st_mtime_ns


def refuse_changed(states: Iterable[tuple[Source, tuple[int, int]]]) -> None:
    """Raise where a file of the source was written to meanwhile: its CRC and its copy may then differ.

    Raises:
        UnreadableFile: its size or its time of change is not what `states_of` found.
    """
    for source, state in states:
        if _state_of(source) != state:
            raise UnreadableFile(
                f"{source.path}: the file changed while it was read",
                why="another program is writing it",
                do="wait until it is complete, then run the command again",
            )


def require_room(target: str, size: int) -> None:
    """Raise before the first byte where the disk cannot hold the file.

    Raises:
        OSError: fewer than `size` bytes are left.
    """
    if not hasattr(os, "statvfs"):
        return
    folder = os.path.dirname(os.path.realpath(target))
    try:
        status = os.statvfs(folder)
    except OSError:
        return  # the folder is missing: opening the file says it better
    room = status.f_bavail * status.f_frsize
    if size > room:
        raise OSError(errno.ENOSPC, f"the new file needs {size:,} bytes, the disk has {room:,} left", target)


def clear_former(job: Job, former: Sequence[str], files: Sequence[str], *, replaced: bool) -> None:
    """Remove the files of the index that was replaced; where it was not, say that they are there.

    Only files are touched that the old index listed under the names that such files have, and only now that
    everything new is in place.
    """
    own = {os.path.realpath(path) for path in files}
    left = [
        path
        for path in former
        if os.path.isfile(path) and not os.path.islink(path) and os.path.realpath(path) not in own
    ]
    if not left:
        return
    shown = ", ".join(os.path.basename(path) for path in left[:4]) + (" ..." if len(left) > 4 else "")
    if not replaced:
        job.note(
            "old-shards",
            f"an older index and {len(left):,} files that it lists are still there: {shown}",
            why="the new model is one file; some loaders take the index first",
            do=f"remove {index_name(job.target)} and them, if nobody needs them",
        )
        return
    gone = []
    for path in left:
        try:
            os.unlink(path)
        except OSError:
            continue  # it is named below
        gone.append(path)
    kept = f"; {len(left) - len(gone):,} could not be removed" if len(gone) < len(left) else ""
    job.note(
        "old-shards",
        f"{len(gone):,} files of the model that was here before are removed{kept}: {shown}",
        why="the index that was replaced listed them, the new one does not",
    )
