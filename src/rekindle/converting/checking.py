"""Is the new file what it should be? It is opened with our own reader before it takes its name.

Each tensor must be there with its type and shape, and its bytes just where they were put; what the file gave back there
must have the CRC-32 of the bytes as they came from the source.
"""

from __future__ import annotations

from rekindle.converting.job import Job
from rekindle.converting.notes import prefixes
from rekindle.converting.result import Written
from rekindle.errors import UnreadableFile
from rekindle.formats import open_path
from rekindle.source import ByteRange
from rekindle.strict import refuse_damaged
from rekindle.tensors import TensorEntry

__all__ = ["check_new_file"]


def check_new_file(job: Job, path: str) -> None:
    """Open the new file with our own reader and compare it with the source.

    Raises:
        UnreadableFile: it differs; it is thrown away.
    """
    if not job.wishes.verify:
        if job.container != "safetensors":
            lost = {loss.key for loss in job.lost}
            job.written.extend(Written(e.key, e.dtype, e.shape) for e in job.table if not _is_under(e.key, lost))
        return
    with open_path(path, job.limits) as made:
        refuse_damaged(made)
        lost = {loss.key for loss in job.lost}
        for entry in job.table:
            if entry.key in made.table:
                _check_tensor(job, entry, made.table[entry.key])
            elif not _is_under(entry.key, lost):
                raise _differs(job.target, f"{entry.key} is missing")
        if job.container != "safetensors":
            job.written.extend(Written(entry.key, entry.dtype, entry.shape) for entry in made.table)
        if len(job.written) != len(made.table):
            raise _differs(job.target, f"{len(made.table):,} tensors instead of {len(job.written):,}")


def _check_tensor(job: Job, entry: TensorEntry, found: TensorEntry) -> None:
    """Compare a tensor of the new file with the source's: what it is, and where its bytes are."""
    flat = job.container == "safetensors"
    same = (found.dtype, found.shape) == (entry.dtype, entry.shape)
    if not flat:
        same &= (found.offset, found.stride, found.conj, found.neg) == (
            *(entry.offset, entry.stride),
            *(entry.conj, entry.neg),
        )
    if not same:
        raise _differs(job.target, f"{entry.key} is {found.dtype} {list(found.shape)}")
    put = job.places_of_keys.get(entry.key) if flat else job.places.get(id(entry.storage), (None, None, 0))[1:]
    data = found.storage.data
    if put is None or put[0] is None or not found.numel:
        return
    place, crc = put
    if not isinstance(data, ByteRange) or data.offset != place:
        raise _differs(job.target, f"the bytes of {entry.key} are not where they were put")
    if job.crcs_read_back.get(place) != crc:
        raise _differs(job.target, f"the bytes of {entry.key} are not those of the source")


def _differs(target: str, what: str) -> UnreadableFile:
    return UnreadableFile(
        f"{target}: the new file is not what it should be: {what}; it was thrown away",
        why="a fault of rekindle, or of the disk",
        do="try again on another disk, and report it",
    )


def _is_under(key: str, lost: set[str]) -> bool:
    return any(prefix in lost for prefix in prefixes(key.partition("#")[0] if key not in lost else key))
