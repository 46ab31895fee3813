"""`convert`: a checkpoint from one container into another, in bounded memory, and checked before it takes its place.

The object goes over as it is: the same nesting, sharing and views where the target has them. What the target cannot
hold is a *loss*, each with its key and the reason; nothing is left out in silence. Bytes are streamed from range to
file. On the way the CRC-32 of each storage is compared with what the source promised, and with what the new file gives
back of it; before the rename the new file is opened with our own reader, which must list the same tensors and find each
one's bytes just where they were put. How that is done is in `rekindle.converting`.

Law: the source is never written to, and the target is either whole and right or as it was before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from rekindle.converting.checking import check_new_file
from rekindle.converting.choosing import change, select, shards_of, values_beside
from rekindle.converting.emitting import plan
from rekindle.converting.files import (
    CONTAINERS,
    HUB_NAMES,
    clear_former,
    container_for,
    files_of_index,
    refuse_changed,
    refuse_existing,
    require_room,
)
from rekindle.converting.job import Job
from rekindle.converting.notes import cast_findings
from rekindle.converting.result import MAX_LOST, Conversion, Lost, Progress, Written
from rekindle.converting.wishes import understood
from rekindle.errors import LimitExceeded
from rekindle.formats import open_path
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.store.atomic import write_beside
from rekindle.strict import refuse_damaged
from rekindle.writers.pipe import Pipe
from rekindle.writers.shards import index_name, index_text

__all__ = ["CONTAINERS", "Conversion", "Lost", "Written", "container_for", "convert", "write_all"]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    part: str | None = None,
    everything: bool = False,
    only: Sequence[str] = (),
    drop: Sequence[str] = (),
    rename: Sequence[str] = (),
    strip: Sequence[str] = (),
    add: str = "",
    dtype: str | None = None,
    data_only: bool = False,
    untie: bool = False,
    slim: bool = False,
    shard: str | int | None = None,
    values: bool = False,
    verify: bool = True,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Conversion:
    """Write a checkpoint into another container.

    Args:
        source: any file or folder that rekindle reads. Of a run or a snapshot, the weights of the tracked modules are
            taken, by themselves where there is one module, else under the modules' names.
        target: the new file. Its suffix names the container: ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` or
            ``.safetensors``.
        to: ``torch-zip`` (what `torch.load` opens), ``torch-stream`` (for torch before 1.6) or ``safetensors``,
            whatever the suffix.
        part: only what lies under this key, such as ``model`` or ``ema.weights``.
        everything: of a run or a snapshot, all that was saved: optimizer, schedule, counters; of a program
            (TorchScript, torch.export), also the tensors that are no part of its state dict.
        only: keep the keys that one of these patterns fits: ``layer1.*``, or ``layer1`` for all that is in it.
        drop: of these, leave out what one of these patterns fits.
        rename: ``OLD=NEW`` for whole parts of keys, ``OLD.=NEW.`` for their beginning, ``/OLD/NEW/`` for a regular
            expression; in this order.
        strip: prefixes to take away before renaming, such as ``module``.
        add: prefix to put in front of every key after renaming.
        dtype: ``float64``, ``float32``, ``float16``, ``bfloat16``, ``float8_e4m3fn`` or ``float8_e5m2`` for every
            floating-point tensor; needs NumPy.
        data_only: objects of any class become the dict, list or value that they carry, so that nothing but plain data
            is left.
        untie: give each tensor its own bytes, instead of keeping shared storages shared.
        slim: keep only the bytes of each storage that tensors show; what overlaps stays shared.
        shard: write files of at most this many bytes (``2GB``, ``500MB``), named and listed as Hugging Face does.
            `target` is then the name that a single file would have, or a folder.
        values: also write the plain values, as JSON, to ``TARGET.values.json``.
        verify: compare the new file with the source before it takes its place.
        force: replace `target` if it is there; it may be the source.
        limits: what reading may cost.
        progress: called with (bytes written, bytes in all) now and then.

    Raises:
        CannotWrite: the target cannot hold it, is a folder, or is there without `force`; two keys would become one,
            nothing is left to write, or a wish cannot be meant as it is written.
        UnreadableFile: the source is damaged; nothing is written.
        LimitExceeded: the object is nested too deeply to be changed.
        OSError: the source is missing, the disk is full, ...; the target is as it was.

    Example:
        >>> import rekindle as rk
        >>> done = rk.convert("runs/digits", "digits.pth")  # doctest: +SKIP
        >>> [loss.key for loss in done.lost]  # doctest: +SKIP
        []
    """
    given, goal = os.fspath(source), os.fspath(target)
    wishes = understood(
        only=tuple(only),
        drop=tuple(drop),
        rename=tuple(rename),
        strip=tuple(strip),
        add=add,
        dtype=dtype,
        data_only=data_only,
        untie=untie,
        slim=slim,
        shard=shard,
        values=values,
        verify=verify,
    )
    again = f"rekindle convert {given} {goal} --force"
    if os.path.isdir(goal):
        if not wishes.shard_bytes:
            refuse_existing(goal, again, force=force)
        goal = os.path.join(goal, HUB_NAMES.get(to or "safetensors", HUB_NAMES["torch-zip"]))
    container = container_for(goal, to)
    with open_path(given, limits) as opened:
        refuse_damaged(opened)
        job = Job(opened, given, goal, container, limits, wishes)
        try:
            select(job, part, everything=everything)
            change(job)
            return write_all(job, shards_of(job), again=again, force=force, progress=progress)
        except RecursionError:  # a change goes down as deep as the object is nested
            raise LimitExceeded(
                f"{given}: the object is nested too deeply to be changed",
                why="its dicts and lists lie hundreds of levels inside each other",
                do="leave out the options, or take the part that is wanted: --take KEY",
            ) from None


def write_all(job: Job, shards: Sequence[Job], *, again: str, force: bool, progress: Progress | None) -> Conversion:
    """Write all files of a conversion; each takes its name only when all are whole and right.

    Args:
        job: what was chosen.
        shards: one job per file: `job` itself, or its parts.
        again: the command that replaces files which are there, for the message.
        force: replace them.
        progress: called with (bytes written, bytes in all) now and then.

    Raises:
        CannotWrite: a file is there, or cannot hold what was chosen.
        UnreadableFile: the source is damaged or was changed meanwhile, or a new file is not what it should be.
        OSError: the disk is full, ...
    """
    goal = job.target
    beside = values_beside(job)
    index = index_name(goal) if len(shards) > 1 else None
    former = files_of_index(index_name(goal), job.limits) if job.wishes.shard_bytes else ()
    files = [shard.target for shard in shards] + [path for path in (index, beside and beside[0]) if path]
    for path in files:
        refuse_existing(path, again, force=force)
    plans = [plan(shard) for shard in shards]
    total = sum(size for size, _ in plans)
    require_room(goal, total)
    size = 0
    try:
        with ExitStack() as stack:
            for shard, (_, emit) in zip(shards, plans, strict=True):
                out = stack.enter_context(write_beside(shard.target, overwrite=force))
                told = None if progress is None else _told(progress, size, total)
                with Pipe(out, told, read_back=job.wishes.verify) as pipe:
                    emit(pipe)
                shard.crcs_read_back = pipe.crcs
                size += out.size
                refuse_changed(job.sources)
                check_new_file(shard, out.path)
    except FileExistsError:  # it appeared meanwhile
        for path in files:
            refuse_existing(path, again, force=False)
        raise
    # What refers to the other files comes last: without it, nobody takes them for the whole.
    if index is not None:
        weight_map = {row.key: os.path.basename(shard.target) for shard in shards for row in shard.written}
        with write_beside(index, overwrite=force) as out:
            out.write(index_text(sum(shard.content_bytes() for shard in shards), weight_map))
    if beside is not None:
        with write_beside(beside[0], overwrite=force) as out:
            out.write(beside[1])
    clear_former(job, former, files, replaced=index is not None)
    lost = list(dict.fromkeys(loss for shard in (job, *shards) for loss in shard.lost))
    findings = list(dict.fromkeys(finding for shard in (job, *shards) for finding in shard.findings))
    findings += cast_findings(job)
    written = tuple(row for shard in shards for row in shard.written)
    return Conversion(
        job.source,
        goal,
        job.container,
        size,
        written,
        tuple(lost[:MAX_LOST]),
        tuple(findings),
        tuple(files),
        job.wishes.verify,
    )


def _told(progress: Progress, before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(min(before + done, total), total)
