"""`average_files`: the mean of several checkpoints of one model, in a new file; without torch, in bounded memory.

Averaging the last epochs of a run, or runs that differ in their seed, often gives a model that is better than each. All
floating-point tensors of the files become their mean; everything else is the last file's: integers, counters of
optimizers, complex, quantized and sparse tensors, plain values, and the element types.

Law: elements are added one file after another in float32 (float64 where one of them is) and divided once, then rounded
to nearest even in the last file's type. The tensors must have the same keys and shapes in all files; no key is guessed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rekindle.casting import FLOATS, Cast, Tally, as_numbers, numpy_for, spared_by_casts
from rekindle.converting.choosing import change, select, shards_of
from rekindle.converting.files import container_for, refuse_existing
from rekindle.converting.job import Job
from rekindle.converting.result import Conversion, Progress
from rekindle.converting.wishes import understood
from rekindle.errors import CannotWrite, LimitExceeded
from rekindle.finding import Finding, Severity
from rekindle.formats import open_path
from rekindle.gather import gather, part_of
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.reshape import without_modules
from rekindle.source import CHUNK_BYTES, BufferBytes, Bytes
from rekindle.strict import refuse_damaged
from rekindle.tensors import DTYPES, Storage, TensorEntry, contiguous_stride, element_count
from rekindle.tree import Tensor, walk
from rekindle.verbs.convert import write_all

__all__ = ["average_files"]

_STEP = 1 << 18


def average_files(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    part: str | None = None,
    everything: bool = False,
    dtype: str | None = None,
    shard: str | int | None = None,
    verify: bool = True,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Conversion:
    """Write the mean of several checkpoints of one model.

    Args:
        sources: two or more files or folders that rekindle reads. The last one gives what is not averaged.
        target: the new file; its suffix names the container.
        to: the container, whatever the suffix.
        part: of each, only what lies under this key, such as ``model``.
        everything: of a run or a snapshot, all that was saved.
        dtype: the type that the averaged tensors get; that of the last file where it is None.
        shard: write files of at most this many bytes, as `convert` does.
        verify: read the new file back before it takes its place.
        force: replace `target` if it is there.
        limits: what reading may cost, for each file.
        progress: called with (bytes written, bytes in all) now and then.

    Raises:
        CannotWrite: fewer than two files, a key or a shape that not all of them have, no NumPy, or what `convert`
            cannot write.
        UnreadableFile: one of them is damaged; nothing is written.
        OSError: one is missing, the disk is full, ...; the target is as it was.

    Example:
        >>> import rekindle as rk
        >>> rk.average_files(["epoch_8.pth", "epoch_9.pth"], "mean.pth").findings  # doctest: +SKIP
    """
    given, goal = [os.fspath(source) for source in sources], os.fspath(target)
    if len(given) < 2:
        raise CannotWrite(
            f"{len(given)} checkpoint{'' if len(given) == 1 else 's'} cannot be averaged",
            why="a mean is taken of two or more",
            do="rekindle convert --average A.pth B.pth -o MEAN.pth",
        )
    numpy_for("averaging")
    wishes = understood(
        only=(), drop=(), rename=(), strip=(), add="", dtype=dtype, data_only=False, untie=False, slim=False,
        shard=shard, values=False, verify=verify,
    )  # fmt: skip
    again = f"rekindle convert --average {shlex.join(given)} -o {shlex.quote(goal)} --force"
    if os.path.isdir(goal):
        refuse_existing(goal, again, force=force)
    container = container_for(goal, to)
    with ExitStack() as stack:
        jobs = []
        for path in given:
            opened = stack.enter_context(open_path(path, limits))
            refuse_damaged(opened)
            jobs.append(Job(opened, path, goal, container, limits, wishes))
        try:
            for job in jobs:
                select(job, part, everything=everything)
            last = jobs[-1]
            _put_means(jobs)
            change(last)
            last.sources += [source for job in jobs[:-1] for source in job.sources]
            return write_all(last, shards_of(last), again=again, force=force, progress=progress)
        except RecursionError:
            raise LimitExceeded(
                f"{given[-1]}: the object is nested too deeply to be averaged",
                why="its dicts and lists lie hundreds of levels inside each other",
                do="take the part that is wanted: --take KEY",
            ) from None


def _put_means(jobs: Sequence[Job]) -> None:
    """Put means in the place of the last file's floating-point tensors; bytes are read when they are written."""
    last = jobs[-1]
    last.tree = without_modules(last.tree)
    last.list_tensors()
    nodes: dict[str, Tensor] = {}
    for path, node in walk(last.tree):
        if isinstance(node, Tensor):
            nodes.setdefault(".".join(path), node)
    spared = spared_by_casts(last.tree)
    wanted = {
        key: node
        for key, node in nodes.items()
        if node.dtype in FLOATS and node.quantizer is None and id(node) not in spared and key in last.table
    }
    others = [_same_tensors(job, last, wanted) for job in jobs[:-1]]
    if not wanted:
        raise CannotWrite(
            f"{last.source}: nothing in it can be averaged",
            why="it holds no floating-point tensors",
            do=f"rekindle inspect {last.source}",
        )
    for job in jobs:  # they are read in steps, so each storage is checked as a whole first
        for storage in {id(entry.storage): entry.storage for entry in job.table}.values():
            job.check_storage(storage)
    made: dict[int, tuple[object, ...]] = {}
    means: dict[tuple[object, ...], Storage] = {}
    untied = []
    planned: list[tuple[Tensor, Storage]] = []
    for key, node in wanted.items():
        entries = [*(tensors[key] for tensors in others), last.table[key]]
        identity = tuple(_identity(entry) for entry in entries)
        if made.setdefault(id(node), identity) != identity:
            untied.append(key)  # one tensor here under two keys, two tensors in another file
            continue
        if identity not in means:
            storage = entries[-1].storage
            data = _Mean(tuple(entries), node.dtype)
            means[identity] = Storage(f"{storage.id}-mean-{len(means)}", data.size, data, storage.device)
        planned.append((node, means[identity]))
    if untied:
        raise CannotWrite(
            f"{untied[0]}: is the same tensor as another key in {last.source}, and not in all of the other files",
            why="tied weights and untied ones have no common mean",
            do=f"rekindle convert {last.source} untied.pth --untie, and average that",
        )
    for node, storage in planned:
        node.storage, node.offset, node.stride = storage, 0, contiguous_stride(node.shape)
        node.conj = node.neg = False
    left = len(nodes) - len(wanted)
    last.findings.append(
        Finding(
            "RK-CONV-18",
            "averaged-as-asked",
            Severity.NOTE,
            f"{len(wanted):,} tensors are the mean of {len(jobs):,} files"
            + (
                f"; {left:,} {'other' if left == 1 else 'others'} and all plain values are those of {last.source}"
                if left
                else ""
            ),
            why="added in float32 one after another (float64 where one of them is), divided once, rounded to nearest",
        )
    )


def _identity(entry: TensorEntry) -> tuple[object, ...]:
    return id(entry.storage), entry.dtype, entry.offset, entry.shape, entry.stride, entry.conj, entry.neg


def _same_tensors(job: Job, last: Job, wanted: dict[str, Tensor]) -> dict[str, TensorEntry]:
    """Return the tensors of another file under the keys of the last one.

    Raises:
        CannotWrite: they have other keys or shapes.
    """
    job.tree = without_modules(job.tree)
    job.list_tensors()
    floats = {entry.key for entry in job.table if entry.dtype in FLOATS and entry.layout == "strided"}
    for key, node in wanted.items():
        if key not in job.table or key not in floats:
            what = "is missing" if key not in job.table else f"is {job.table[key].dtype}"
            raise _unlike(job, last, f"{key} {what} in {job.source}")
        if job.table[key].shape != node.shape:
            mine, theirs = list(job.table[key].shape), list(node.shape)
            raise _unlike(job, last, f"{key} is {mine} in {job.source} and {theirs} in {last.source}")
        if job.table[key].storage.data is None and element_count(node.shape):
            raise _unlike(job, last, f"{key} has no bytes in {job.source}")
    known = {entry.key for entry in last.table}
    more = sorted(floats - known)
    if more:
        raise _unlike(job, last, f"{more[0]} is in {job.source} and not in {last.source}")
    return {key: job.table[key] for key in wanted}


def _unlike(job: Job, last: Job, what: str) -> CannotWrite:
    return CannotWrite(
        what,
        why="only checkpoints of one model have a mean: the same keys with the same shapes",
        do=f"rekindle diff {job.source} {last.source}",
    )


@dataclass(frozen=True, slots=True)
class _Mean:
    """The mean of one tensor of several files, computed step by step as it is read."""

    entries: tuple[TensorEntry, ...]
    dtype: str

    @property
    def size(self) -> int:
        return element_count(self.entries[-1].shape) * DTYPES[self.dtype].itemsize

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the elements, row-major, little-endian."""
        np = numpy_for("averaging")
        wide = "float64" if any(entry.dtype == "float64" for entry in self.entries) else "float32"
        parts = [(entry.dtype, gather(entry, conj=entry.conj, neg=entry.neg)) for entry in self.entries]
        count = element_count(self.entries[-1].shape)
        step = max(min(_STEP, chunk_bytes // 8), 1)
        for at in range(0, count, step):
            here = min(step, count - at)
            total: Any = None
            with np.errstate(all="ignore"):  # infinities and NaN are what they are
                for dtype, data in parts:
                    numbers = as_numbers(_read(data, dtype, at, here), dtype).astype(wide)
                    total = numbers if total is None else total + numbers
                total /= total.dtype.type(len(parts))
            elements = BufferBytes(memoryview(total.tobytes()))
            yield from Cast(elements, wide, self.dtype, Tally()).chunks()


def _read(data: Bytes, dtype: str, at: int, count: int) -> memoryview:
    itemsize = DTYPES[dtype].itemsize
    return memoryview(b"".join(part_of(data, at * itemsize, count * itemsize).chunks()))
