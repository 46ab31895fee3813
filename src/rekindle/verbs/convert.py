"""`convert`: a checkpoint from one container into another, in bounded memory, and checked before it takes its place.

The object goes over as it is: the same nesting, sharing and views where the target has them. What the target cannot
hold is a *loss*, each with its key and the reason; nothing is left out in silence. Bytes are streamed from range to
file. On the way the CRC-32 of each storage is compared with what the source promised; before the rename the new file
is opened with our own reader, which must list the same tensors and find each one's bytes just where they were put.

Law: the source is never written to, and the target is either whole and right or as it was before.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zlib import crc32

from rekindle.errors import CannotWrite, LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats import open_path
from rekindle.gather import gather
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.listing import kind_of, table_of
from rekindle.reshape import flattened, without_modules
from rekindle.selection import take
from rekindle.source import CHUNK_BYTES, ByteRange, Bytes, Source
from rekindle.store.atomic import write_beside
from rekindle.strict import refuse_damaged
from rekindle.tensors import DTYPES, Storage, TensorEntry, TensorTable, element_count
from rekindle.tree import Global, Map, Module, Record, SetOf, Tensor, Value, children, distinct_nodes, walk
from rekindle.verbs._wishes import Wishes, understood
from rekindle.writers.pipe import Pipe, Spliced
from rekindle.writers.safetensors import NamedTensor, why_not, write_tensors
from rekindle.writers.shards import index_name, index_text, shard_name, split
from rekindle.writers.sharing import dragged_storages, slim, untie

if TYPE_CHECKING:
    from rekindle.casting import CastReport
    from rekindle.opened import Opened
    from rekindle.writers.pickle_program import Path, Program, StoredStorage

__all__ = ["CONTAINERS", "Conversion", "Lost", "Written", "container_for", "convert"]

CONTAINERS = ("torch-zip", "torch-stream", "safetensors")
_OF_SUFFIX = {
    ".pth": "torch-zip",
    ".pt": "torch-zip",
    ".bin": "torch-zip",
    ".ckpt": "torch-zip",
    ".safetensors": "safetensors",
}

# Keys under which training scripts keep the weights beside other things.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "model_state", "module", "net", "network", "weights", "params"),
    *("ema", "ema_state_dict", "model_ema", "generator", "encoder"),
)
_MAX_LOST = 10_000
# Objects turned into data that are told one by one.
_MAX_CHANGES = 16
# What a model in a folder is called there.
_HUB_NAMES = {"safetensors": "model.safetensors", "torch-zip": "pytorch_model.bin"}

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
    if suffix not in _OF_SUFFIX:
        raise CannotWrite(
            f"{target}: the suffix {suffix!r} does not say which container to write"
            if suffix
            else f"{target}: without a suffix it is not said which container to write",
            do=f"--to {' or --to '.join(CONTAINERS)}, or a name that ends in {', '.join(_OF_SUFFIX)}",
        )
    return _OF_SUFFIX[suffix]


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
    if os.path.isdir(goal):
        if not wishes.shard_bytes:
            _refuse_existing(goal, given, force=force)
        goal = os.path.join(goal, _HUB_NAMES.get(to or "safetensors", _HUB_NAMES["torch-zip"]))
    container = container_for(goal, to)
    with open_path(given, limits) as opened:
        refuse_damaged(opened)
        job = _Job(opened, given, goal, container, limits, wishes)
        try:
            job.select(part, everything=everything)
            job.change()
            return _written(job, job.shards(), force=force, progress=progress)
        except RecursionError:  # a change goes down as deep as the object is nested
            raise LimitExceeded(
                f"{given}: the object is nested too deeply to be changed",
                why="its dicts and lists lie hundreds of levels inside each other",
                do="leave out the options, or take the part that is wanted: --take KEY",
            ) from None


def _written(job: _Job, shards: list[_Job], *, force: bool, progress: Progress | None) -> Conversion:
    """Write all files of a conversion; each takes its name only when all are whole and right."""
    goal = job.target
    beside = job.values_beside()
    index = index_name(goal) if len(shards) > 1 else None
    former = _files_of_index(index_name(goal), job.limits) if job.wishes.shard_bytes else ()
    files = [shard.target for shard in shards] + [path for path in (index, beside and beside[0]) if path]
    for path in files:
        _refuse_existing(path, job.source, force=force)
    plans = [shard.plan() for shard in shards]
    total = sum(size for size, _ in plans)
    job.require_room(total)
    size = 0
    try:
        with ExitStack() as stack:
            for shard, (_, emit) in zip(shards, plans, strict=True):
                out = stack.enter_context(write_beside(shard.target, overwrite=force))
                told = None if progress is None else _told(progress, size, total)
                with Pipe(out, told) as pipe:
                    emit(pipe)
                size += out.size
                job.check_sources()
                shard.check(out.path)
    except FileExistsError:  # it appeared meanwhile
        for path in files:
            _refuse_existing(path, job.source, force=False)
        raise
    # What refers to the other files comes last: without it, nobody takes them for the whole.
    if index is not None:
        weight_map = {row.key: os.path.basename(shard.target) for shard in shards for row in shard.written}
        with write_beside(index, overwrite=force) as out:
            out.write(index_text(sum(shard.content_bytes() for shard in shards), weight_map))
    if beside is not None:
        with write_beside(beside[0], overwrite=force) as out:
            out.write(beside[1])
    job.clear_former(former, files, replaced=index is not None)
    lost = list(dict.fromkeys(loss for shard in (job, *shards) for loss in shard.lost))
    findings = list(dict.fromkeys(finding for shard in (job, *shards) for finding in shard.findings))
    findings += job.cast_findings()
    written = tuple(row for shard in shards for row in shard.written)
    return Conversion(
        job.source,
        goal,
        job.container,
        size,
        written,
        tuple(lost[:_MAX_LOST]),
        tuple(findings),
        tuple(files),
        job.wishes.verify,
    )


def _files_of_index(index: str, limits: Limits) -> tuple[str, ...]:
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


def _told(progress: Progress, before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(min(before + done, total), total)


def _refuse_existing(target: str, source: str, *, force: bool) -> None:
    if os.path.isdir(target):
        raise CannotWrite(f"{target}: is a folder", do="give the name of a file in it")
    if not force and os.path.lexists(target):
        raise CannotWrite(
            f"{target}: there is a file of this name already",
            why="nothing is replaced unless you say so",
            do=f"rekindle convert {source} {target} --force",
        )


class _Job:
    """One conversion: what is taken from the source, and what became of it."""

    def __init__(
        self, opened: Opened, source: str, target: str, container: str, limits: Limits, wishes: Wishes
    ) -> None:
        self.opened = opened
        self.source = source
        self.target = target
        self.container = container
        self.limits = limits
        self.wishes = wishes
        self.casting: CastReport | None = None
        self.values_tree: Value = None  # where the values keep a nesting that the tensors lose
        self.tree: Value = opened.tree
        self.table: TensorTable = opened.table
        self.written: list[Written] = []
        self.lost: list[Lost] = []
        self.findings = [finding for finding in opened.findings if finding.severity is not Severity.NOTE]
        self.promised = _promised_crcs(opened)
        # Where bytes were put, and their CRC-32 as they came from the source: by id of the storage, or by key if flat.
        self.places: dict[int, tuple[Storage, int, int]] = {}
        self.places_of_keys: dict[str, tuple[int, int]] = {}
        self.read_back: set[int] = set()  # places in the new file whose bytes were compared
        self.key_prefixes: frozenset[str] | None = None
        self.sources = _sources(opened.table)

    # --- what to take -------------------------------------------------------------------------------------------------

    def select(self, part: str | None, *, everything: bool) -> None:
        """Choose the part of the object that goes over."""
        if part is not None:
            self.tree = take(self.tree, part, self.source)
        elif self.opened.format in {"run", "snapshot"} and not everything:
            self.select_modules()
        elif self.opened.format not in {"run", "snapshot"}:
            self.select_outside(everything=everything)
        if part is None and self.container == "safetensors" and not self.wishes.reshapes:
            self.report_wrapper()
        self.list_tensors()

    def list_tensors(self) -> None:
        self.table, found = table_of(self.tree, self.limits)
        self.findings.extend(finding for finding in found if finding not in self.findings)

    def select_outside(self, *, everything: bool) -> None:
        """Take, or list as lost, the tensors that the reader found beside the object: attributes and constants."""
        inside = table_of(self.tree, self.limits)[0]
        places = {(id(entry.storage), entry.offset, entry.shape) for entry in inside}
        outside = [
            entry
            for entry in self.opened.table
            if entry.key not in inside and (id(entry.storage), entry.offset, entry.shape) not in places
        ]
        if not outside:
            return
        if everything:
            tree = without_modules(self.tree)
            pairs = list(tree.pairs) if isinstance(tree, Map) else [("object", tree)]
            self.tree = Map([*pairs, *((entry.key, _tensor_of(entry)) for entry in outside)])
            return
        self.lost.extend(
            Lost(
                entry.key, "no part of the state dict but an attribute or constant of the program; --all takes it", True
            )
            for entry in outside
        )

    def select_modules(self) -> None:
        tracked = self.opened.facts.get("tracked")
        if not isinstance(tracked, Mapping) or not isinstance(self.tree, Map):
            return
        names = [
            name for name, about in tracked.items() if isinstance(about, Mapping) and about.get("kind") == "module"
        ]
        modules = [(key, child) for key, child in self.tree.pairs if key in names]
        if not modules:
            return
        rest = [str(key) for key, _ in self.tree.pairs if key not in names]
        self.tree = modules[0][1] if len(modules) == 1 else Map(modules)
        if rest:
            self.note(
                "weights-only",
                f"the weights of {', '.join(names)} are written; left out: {', '.join(rest)}",
                why="a run holds what it needs to go on; to use the model, its weights are enough",
                do=f"rekindle convert {self.source} {self.target} --all",
            )

    def change(self) -> None:
        """Do what was wished for, in the one order: plain data, choice, names, types, sharing."""
        wishes = self.wishes
        if wishes.data_only:
            plain = wishes.plain(self.tree)
            self.tree = plain.tree
            for path, what in plain.changed[:_MAX_CHANGES]:
                self.note("object-as-data", f"{path or 'the whole'}: {what}", where=Where(key=path or None))
            if len(plain.changed) > _MAX_CHANGES:
                self.note("object-as-data", f"{len(plain.changed) - _MAX_CHANGES:,} more objects are written as data")
        if wishes.reshapes:
            self.reshape()
        if wishes.dtype:
            self.list_tensors()
            self.casting = wishes.cast(self.tree, self.checked_bytes)
        if wishes.untie or wishes.slim:
            self.list_tensors()
            # What is read in parts from now on is checked as a whole first.
            for storage in {id(entry.storage): entry.storage for entry in self.table}.values():
                self.check_storage(storage)
            if wishes.untie:
                untie(self.tree)
            else:
                slim(self.tree)
        self.list_tensors()

    def reshape(self) -> None:
        wishes = self.wishes
        flat = self.container == "safetensors"
        result = wishes.reshaped(self.tree, flat=flat)
        kept = {id(node) for node in distinct_nodes(result.tree) if isinstance(node, Tensor)}
        self.report_modules(hidden=True, kept=kept)
        if wishes.values and flat:
            self.values_tree = wishes.chosen(self.tree)
        self.tree = result.tree
        if result.left_out:
            keys = ", ".join(result.left_out[:4])
            self.note(
                "left-out-as-asked",
                f"{len(result.left_out):,} keys are left out as asked: {keys}"
                f"{' ...' if len(result.left_out) > 4 else ''}",
            )
        if result.renamed:
            old, new = next(iter(result.renamed.items()))
            self.note("renamed-as-asked", f"{len(result.renamed):,} keys are renamed: {old} is {new}, and so on")
        unused = sorted(wishes.choice.unused | wishes.rules.unused)
        if unused:
            self.note(
                "pattern-without-match",
                f"no key fits {', '.join(repr(pattern) for pattern in unused)}",
                why="a pattern is compared with whole keys, and a prefix with whole parts",
                do=f"rekindle inspect {self.source}",
            )

    def checked_bytes(self, storage: Storage) -> Bytes | None:
        """Return a storage's bytes for a cast: their CRC is compared on the way where they pass as a whole."""
        promised = self.promised.get(_place(storage.data))
        if promised is None or storage.data is None:
            return storage.data
        if self.container == "safetensors":  # which reads tensor by tensor
            self.check_storage(storage)
            return storage.data
        return _Checked(storage.data, self.source, *promised)

    def cast_findings(self) -> list[Finding]:
        """Return what casting did, now that all is written."""
        report = self.casting
        if report is None:
            return []
        before = len(self.findings)
        cast = ", ".join(f"{count:,} of {name}" for name, count in report.cast.items())
        left = ", ".join(f"{count:,} of {name}" for name, count in report.left.items())
        untied = f"; {report.untied:,} of them shared bytes with another type and now have their own"
        self.note(
            "cast-as-asked",
            (f"cast to {self.wishes.dtype}: {cast}" if cast else f"nothing had to be cast to {self.wishes.dtype}")
            + (untied if report.untied else "")
            + (f"; left as they are: {left}" if left else ""),
        )
        tally = report.tally
        if tally.overflowed or tally.vanished:
            bound = "448, the largest there is," if self.wishes.dtype == "float8_e4m3fn" else "infinite"
            self.findings.append(
                Finding(
                    f"RK-CONV-{_CODES.index('values-out-of-range') + 1:02}",
                    "values-out-of-range",
                    Severity.WARNING if tally.overflowed else Severity.NOTE,
                    f"{tally.overflowed:,} values became {bound} and {tally.vanished:,} became zero",
                    f"{self.wishes.dtype} cannot hold numbers as large or as small",
                    "--dtype bfloat16 has the range of float32" if self.wishes.dtype == "float16" else "",
                )
            )
        return self.findings[before:]

    def values_beside(self) -> tuple[str, bytes] | None:
        """Return (path, JSON) of the plain values, where they were asked for."""
        if not self.wishes.values:
            return None
        from rekindle.plain_data import json_of  # noqa: PLC0415 - only where asked for

        found = json_of(self.tree if self.values_tree is None else self.values_tree)
        if not found.count and not found.dropped:
            self.note("values-beside", "there are no plain values to write beside")
            return None
        path = f"{self.target}.values.json"
        text = json.dumps(found.value, indent=1, allow_nan=False)
        self.lost.extend(Lost(key, f"left out of the values: {why}") for key, why in found.dropped)
        self.note("values-beside", f"{found.count:,} plain values are written beside, to {path}")
        return path, f"{text}\n".encode()

    def shards(self) -> list[_Job]:
        """Return one job per file: this one, or its parts."""
        if not self.wishes.shard_bytes:
            return [self]
        tree = self.tree
        if self.container == "safetensors":
            tree = flattened(without_modules(tree))
        elif isinstance(tree, Module):
            self.report_modules()
            tree = without_modules(tree)
        flat = isinstance(tree, Map) and (self.container == "safetensors" or kind_of(tree, self.table) == "state_dict")
        if not isinstance(tree, Map) or not flat:
            raise CannotWrite(
                f"{self.source}: only a state dict can be cut into files",
                why="the files hold keys and tensors, and nothing around them",
                do="take the weights out of the checkpoint: --take KEY; or write .safetensors",
            )
        groups = split(_together(tree, copies=self.container == "safetensors"), self.wishes.shard_bytes)
        if len(groups) < 2:
            return [self]
        self.report_modules()
        made = []
        for number, pairs in enumerate(groups, 1):
            shard = copy(self)
            shard.target = shard_name(self.target, number, len(groups))
            shard.tree = Map([pair for group in pairs for pair in group], tree.type)
            shard.written, shard.lost, shard.findings = [], [], []
            shard.places, shard.places_of_keys, shard.key_prefixes, shard.read_back = {}, {}, None, set()
            shard.list_tensors()
            made.append(shard)
        return made

    def content_bytes(self) -> int:
        """Return the bytes of the tensors, each storage once where the file keeps sharing."""
        keys = {row.key for row in self.written}
        if self.container == "safetensors":
            return sum(entry.size_bytes for entry in self.table if entry.key in keys)
        return sum({id(e.storage): e.storage.size_bytes for e in self.table if e.key in keys}.values())

    def report_wrapper(self) -> None:
        """Say where the weights lie, when the keys of a flat file will carry the name of a wrapper."""
        if not isinstance(self.tree, Map):
            return
        for key, child in self.tree.pairs:
            if key in _WRAPPERS and isinstance(child, (Map, Module)) and len(self.tree.pairs) > 1:
                self.note(
                    "wrapped-weights",
                    f"the weights lie under {key!r}, so their keys start with {key}.",
                    why="the checkpoint keeps other things beside them; a safetensors file is one flat list",
                    do=f"rekindle convert {self.source} {self.target} --part {key}",
                )
                return

    # --- writing ------------------------------------------------------------------------------------------------------

    def plan(self) -> tuple[int, Callable[[Pipe], None]]:
        """Return the bytes of the tensors to write, and what writes the file."""
        if self.container == "safetensors":
            tensors = self.flat_tensors()
            metadata = self.metadata()

            def emit(out: Pipe) -> None:
                placed = [
                    replace(tensor, data=_Placed(tensor.key, _spliced(tensor.data, out), out, self.places_of_keys))
                    for tensor in tensors
                ]
                write_tensors(placed, out, metadata)

            return sum(tensor.data.size for tensor in tensors), emit
        program = self.program()

        def emit_program(out: Pipe) -> None:
            self.write_program(program, out)

        return sum(storage.data.size for storage in program.storages), emit_program

    def require_room(self, size: int) -> None:
        """Raise before the first byte where the disk cannot hold the file."""
        if not hasattr(os, "statvfs"):
            return
        folder = os.path.dirname(os.path.realpath(self.target))
        try:
            status = os.statvfs(folder)
        except OSError:
            return  # the folder is missing: opening the file says it better
        room = status.f_bavail * status.f_frsize
        if size > room:
            raise OSError(
                errno.ENOSPC,
                f"the new file needs {size:,} bytes, the disk has {room:,} left",
                self.target,
            )

    def program(self) -> Program:
        from rekindle.writers.pickle_program import program_of  # noqa: PLC0415 - not for safetensors

        self.report_modules()
        program = program_of(self.tree, stream=self.container == "torch-stream", unfit=self.lose)
        for stored in program.storages:
            if stored.data is not stored.storage.data:  # swapped on the way: its CRC is not that of the source
                self.check_storage(stored.storage)
        self.report_old_torch()
        self.report_devices()
        for dragged in dragged_storages(self.tree):
            self.note(
                "dragged-storage",
                f"{dragged.storage.size_bytes:,} bytes of storage {dragged.storage.id} go over for a view of "
                f"{dragged.used_bytes:,}",
                why="a view shares the storage of the tensor it was cut from, and a storage is written whole",
                do=f"rekindle convert {self.source} {self.target} --untie",
            )
        metadata = self.opened.facts.get("metadata")
        if isinstance(metadata, Mapping):
            for name, text in metadata.items():
                if (name, text) != ("format", "pt"):
                    self.lost.append(Lost(f"__metadata__.{name}", "torch's containers have no place for this text"))
        return program

    def write_program(self, program: Program, out: Pipe) -> None:
        """Write a torch container, comparing each storage's CRC with what the source promised."""
        by_key = {storage.key: storage for storage in program.storages}
        spliced = tuple(replace(storage, data=_spliced(storage.data, out)) for storage in program.storages)
        program = replace(program, storages=spliced)
        if self.container == "torch-zip":
            from rekindle.writers import torch_zip  # noqa: PLC0415

            for record in torch_zip.write_program(program, out):
                folder, _, key = record.name.partition("/data/")
                if folder == "archive" and key in by_key:
                    self.compare(by_key[key], record.crc32, record.data_offset)
        else:
            from rekindle.writers import torch_stream  # noqa: PLC0415

            for storage, crc in torch_stream.write_program(program, out):
                self.compare(by_key[storage.key], crc, out.done - storage.data.size)

    def compare(self, stored: StoredStorage, crc: int, place: int) -> None:
        """Compare the CRC of a storage that was just written, and note where it was put."""
        storage = stored.storage
        promised = self.promised.get(_place(storage.data))
        if promised is not None and stored.data is storage.data and promised[1] != crc:
            raise _damaged(self.source, promised[0], promised[1], crc)
        self.places[id(storage)] = (storage, place, crc)

    def flat_tensors(self) -> list[NamedTensor]:
        """Return the tensors of a flat file; what it cannot hold is lost."""
        self.report_modules()
        tensors = []
        unchecked: dict[int, Storage] = {}
        checked: set[int] = set()
        for entry in self.table:
            reason = _why_not_flat(entry)
            if reason:
                self.lost.append(Lost(entry.key, reason, is_tensor=True))
                continue
            data = gather(entry, conj=entry.conj, neg=entry.neg)
            promised = self.promised.get(_place(entry.storage.data))
            if promised is not None and id(entry.storage) not in checked:
                if data is entry.storage.data:  # it is streamed whole: its CRC is computed on the way
                    checked.add(id(entry.storage))
                    data = _Checked(data, self.source, *promised)
                else:
                    unchecked[id(entry.storage)] = entry.storage
            tensors.append(NamedTensor(entry.key, entry.dtype, entry.shape, data))
            self.written.append(Written(entry.key, entry.dtype, entry.shape))
        for key, storage in unchecked.items():
            if key not in checked:
                self.check_storage(storage)
        if not tensors:
            raise CannotWrite(
                f"{self.source}: nothing in it can be written as safetensors",
                why=self.lost[0].why if self.lost else "it holds no tensors",
                do=f"rekindle convert {self.source} {os.path.splitext(self.target)[0]}.pth",
            )
        self.lose_values()
        self.report_copies(tensors)
        return tensors

    def check_storage(self, storage: Storage) -> None:
        """Compare the CRC of a storage that a flat file takes tensors from."""
        promised = self.promised.get(_place(storage.data))
        if promised is None or storage.data is None:
            return
        for _ in _Checked(storage.data, self.source, *promised).chunks():
            pass

    def metadata(self) -> Mapping[str, str]:
        kept = self.opened.facts.get("metadata")
        found = {str(name): str(text) for name, text in kept.items()} if isinstance(kept, Mapping) else {}
        return {"format": "pt", **found}

    def clear_former(self, former: Sequence[str], files: Sequence[str], *, replaced: bool) -> None:
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
            self.note(
                "old-shards",
                f"an older index and {len(left):,} files that it lists are still there: {shown}",
                why="the new model is one file; some loaders take the index first",
                do=f"remove {index_name(self.target)} and them, if nobody needs them",
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
        self.note(
            "old-shards",
            f"{len(gone):,} files of the model that was here before are removed{kept}: {shown}",
            why="the index that was replaced listed them, the new one does not",
        )

    # --- checking -----------------------------------------------------------------------------------------------------

    def check_sources(self) -> None:
        """Raise where a file of the source was written to meanwhile: its CRC and its copy may then differ."""
        for source, state in self.sources:
            if _state_of(source) != state:
                raise UnreadableFile(
                    f"{source.path}: the file changed while it was read",
                    why="another program is writing it",
                    do="wait until it is complete, then run the command again",
                )

    def check(self, path: str) -> None:
        """Open the new file with our own reader and compare it with the source.

        Raises:
            UnreadableFile: it differs; it is thrown away.
        """
        if not self.wishes.verify:
            if self.container != "safetensors":
                lost = {loss.key for loss in self.lost}
                self.written.extend(Written(e.key, e.dtype, e.shape) for e in self.table if not _is_under(e.key, lost))
            return
        with open_path(path, self.limits) as made:
            refuse_damaged(made)
            lost = {loss.key for loss in self.lost}
            for entry in self.table:
                if entry.key in made.table:
                    self.check_tensor(entry, made.table[entry.key])
                elif not _is_under(entry.key, lost):
                    raise _differs(self.target, f"{entry.key} is missing")
            if self.container != "safetensors":
                self.written.extend(Written(entry.key, entry.dtype, entry.shape) for entry in made.table)
            if len(self.written) != len(made.table):
                raise _differs(self.target, f"{len(made.table):,} tensors instead of {len(self.written):,}")

    def check_tensor(self, entry: TensorEntry, found: TensorEntry) -> None:
        """Compare a tensor of the new file with the source's: what it is, and where its bytes are."""
        flat = self.container == "safetensors"
        same = (found.dtype, found.shape) == (entry.dtype, entry.shape)
        if not flat:
            same &= (found.offset, found.stride, found.conj, found.neg) == (
                *(entry.offset, entry.stride),
                *(entry.conj, entry.neg),
            )
        if not same:
            raise _differs(self.target, f"{entry.key} is {found.dtype} {list(found.shape)}")
        put = self.places_of_keys.get(entry.key) if flat else self.places.get(id(entry.storage), (None, None, 0))[1:]
        data = found.storage.data
        if put is None or put[0] is None or not found.numel:
            return
        place, crc = put
        if not isinstance(data, ByteRange) or data.offset != place:
            raise _differs(self.target, f"the bytes of {entry.key} are not where they were put")
        if place not in self.read_back:
            self.read_back.add(place)
            if _crc_of(data) != crc:
                raise _differs(self.target, f"the bytes of {entry.key} are not those of the source")

    # --- what is worth saying -----------------------------------------------------------------------------------------

    def note(self, name: str, what: str, *, why: str = "", do: str = "", where: Where | None = None) -> None:
        code = f"RK-CONV-{_CODES.index(name) + 1:02}"
        self.findings.append(Finding(code, name, Severity.NOTE, what, why, do, where or Where()))

    def lose(self, path: Path, why: str) -> None:
        key = ".".join(str(part) for part in path)
        if self.key_prefixes is None:
            self.key_prefixes = frozenset(prefix for entry in self.table for prefix in _prefixes(entry.key))
        self.lost.append(Lost(key, why, is_tensor=key in self.key_prefixes))

    def lose_values(self) -> None:
        """List everything but tensors: a flat file holds nothing else."""
        if self.wishes.values:
            return  # they are written beside; what is not is listed there
        absent: set[tuple[str, ...]] = set()  # a module without a bias lacks nothing
        for path, node in walk(self.tree):
            if isinstance(node, Module):
                absent.update((*path, name) for name, child in children(node) if child is None)
                continue
            if node is None and path in absent:
                continue
            if isinstance(node, (bool, int, float, complex, str, bytes, Global)) or node is None:
                why = "a plain value; safetensors holds tensors only"
            elif isinstance(node, Record):
                name = node.function.path if isinstance(node.function, Global) else "a call"
                why = f"an object of {name}; safetensors holds tensors only"
            elif isinstance(node, SetOf):
                why = "a set; safetensors holds tensors only"
            else:
                continue
            self.lost.append(Lost(".".join(path), why))
            if len(self.lost) > _MAX_LOST:
                self.note("many-losses", f"more than {_MAX_LOST:,} plain values are left out; the list stops there")
                return

    def report_modules(self, *, hidden: bool = False, kept: set[int] | None = None) -> None:
        """Say that whole modules go over as their state dicts; their classes stay behind.

        Args:
            hidden: also list the buffers that a state dict leaves out, whatever the container.
            kept: ids of the tensors that were chosen, where not all are; modules without any are not told of.
        """
        modules = {id(node): node for node in distinct_nodes(self.tree) if isinstance(node, Module)}
        if kept is not None:
            modules = {
                key: node for key, node in modules.items() if any(id(part) in kept for part in distinct_nodes(node))
            }
        inner = {id(child) for node in modules.values() for child in node.modules.values()}
        tops = [node for key, node in modules.items() if key not in inner]
        for node in tops:
            self.note(
                "module-as-state-dict",
                f"the module {node.type.path} is written as its state dict",
                why="its class and settings are code and objects that a plain file does not hold",
            )
        if hidden or self.container != "safetensors":
            self.lose_hidden_buffers(set(modules))

    def lose_hidden_buffers(self, modules: set[int]) -> None:
        for path, node in walk(self.tree):
            if isinstance(node, Module) and id(node) in modules:
                for name in node.non_persistent:
                    if node.buffers.get(name) is not None:
                        key = ".".join((*path, name))
                        self.lost.append(Lost(key, "a buffer that state_dict() leaves out", is_tensor=True))

    def report_old_torch(self) -> None:
        if self.container != "torch-stream":
            return
        from rekindle.writers.torch_stream import needs_newer_torch  # noqa: PLC0415

        needs = needs_newer_torch(self.tree)
        if needs:
            listed = ", ".join(f"{name} (torch {since})" for name, since in sorted(needs.items()))
            self.note(
                "needs-newer-torch",
                f"an older torch cannot open this stream; it holds {listed}",
                why="the container is old, these types are not",
                do="convert the tensors to older types first, or use a torch of that version or newer",
            )

    def report_devices(self) -> None:
        devices = sorted({entry.storage.device for entry in self.table} - {"cpu", "meta"})
        if devices:
            self.note(
                "device-left-out",
                f"what was saved on {', '.join(devices)} is written for the CPU",
                why="the file then opens on every machine; move the tensors after loading",
            )

    def report_copies(self, tensors: list[NamedTensor]) -> None:
        """Say that shared tensors are written once per key, with both sizes."""
        kept = {tensor.key for tensor in tensors}
        shared = [
            entries
            for entries in self.table.by_storage.values()
            if len([entry for entry in entries if entry.key in kept]) > 1
        ]
        once = sum(entries[0].storage.size_bytes for entries in shared)
        each = sum(entry.size_bytes for entries in shared for entry in entries if entry.key in kept)
        if shared and each > once:
            keys = [entry.key for entry in shared[0]]
            self.note(
                "shared-tensors-copied",
                f"{', '.join(keys[:4])}{' ...' if len(keys) > 4 else ''} share their bytes and are written one by one: "
                f"{each:,} bytes instead of {once:,}",
                why="safetensors has no sharing; with every key in the file, every loader finds what it looks for",
                do="tie the weights again after loading, or keep the sharing in a .pth file",
            )


_CODES = (
    *("weights-only", "wrapped-weights", "dragged-storage", "many-losses", "module-as-state-dict"),
    *("needs-newer-torch", "device-left-out", "shared-tensors-copied", "wrong-crc", "left-out-as-asked"),
    *("renamed-as-asked", "pattern-without-match", "cast-as-asked", "values-out-of-range", "values-beside"),
    *("object-as-data", "old-shards", "averaged-as-asked"),
)


def _spliced(data: Bytes, out: Pipe) -> Bytes:
    if isinstance(data, _Checked) and isinstance(data.data, ByteRange):
        return replace(data, data=Spliced(data.data, out))
    return Spliced(data, out) if isinstance(data, ByteRange) else data


def _crc_of(data: ByteRange) -> int:
    """Return the CRC-32 of a range, read through one buffer."""
    buffer = memoryview(bytearray(min(CHUNK_BYTES, data.size)))
    crc = 0
    for at in range(0, data.size, CHUNK_BYTES):
        piece = buffer[: min(CHUNK_BYTES, data.size - at)]
        data.source.read_into(data.offset + at, piece)
        crc = crc32(piece, crc)
    return crc


@dataclass(frozen=True, slots=True)
class _Placed:
    """The bytes of a tensor, noting where in the output they are put and what their CRC-32 is."""

    key: str
    data: Bytes
    out: Pipe
    places: dict[str, tuple[int, int]]

    @property
    def size(self) -> int:
        return self.data.size

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        place, crc = self.out.done, 0
        checked = self.data if isinstance(self.data, _Checked) else None
        for chunk in (self.data if checked is None else checked.data).chunks(chunk_bytes):
            crc = crc32(chunk, crc)
            yield chunk
        if checked is not None and crc != checked.promised:
            raise _damaged(checked.source, checked.member, checked.promised, crc)
        self.places[self.key] = place, crc


@dataclass(frozen=True, slots=True)
class _Checked:
    """The bytes of a storage, whose CRC-32 is compared when the last of them has passed."""

    data: Bytes
    source: str
    member: str
    promised: int

    @property
    def size(self) -> int:
        return self.data.size

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        crc = 0
        for chunk in self.data.chunks(chunk_bytes):
            crc = crc32(chunk, crc)
            yield chunk
        if crc != self.promised:
            raise _damaged(self.source, self.member, self.promised, crc)


def _tensor_of(entry: TensorEntry) -> Tensor:
    tensor = Tensor(entry.storage, entry.dtype, entry.offset, entry.shape, entry.stride, entry.requires_grad)
    tensor.parameter, tensor.conj, tensor.neg = entry.parameter, entry.conj, entry.neg
    return tensor


def _together(tree: Map, *, copies: bool) -> Iterator[tuple[list[tuple[Value, Value]], int]]:
    """Yield the pairs of a state dict that must be in one file, with their bytes, in the order of the keys.

    Args:
        tree: of one level.
        copies: whether tensors that share their bytes are written one by one.
    """
    groups: dict[object, list[tuple[Value, Value]]] = {}
    sizes: dict[object, dict[object, int]] = {}
    for at, pair in enumerate(tree.pairs):
        tensors = [node for node in distinct_nodes(pair[1]) if isinstance(node, Tensor)]
        group: object = at if copies or not tensors else id(tensors[0].storage)
        groups.setdefault(group, []).append(pair)
        size = sizes.setdefault(group, {})
        for number, tensor in enumerate(tensors):
            if copies:
                size[at, number] = element_count(tensor.shape) * DTYPES[tensor.dtype].itemsize
            else:
                size[id(tensor.storage)] = tensor.storage.size_bytes
    for group, pairs in groups.items():
        yield pairs, sum(sizes[group].values())


def _dots(text: str) -> Iterator[int]:
    """Yield the places of the dots, last first."""
    at = text.rfind(".")
    while at >= 0:
        yield at
        at = text.rfind(".", 0, at)


def _why_not_flat(entry: TensorEntry) -> str:
    if entry.layout == "storage":
        return "a bare storage without a tensor; safetensors holds tensors only"
    if entry.layout != "strided":
        return f"a part of a {entry.layout} tensor; safetensors holds plain tensors only"
    if entry.storage.data is None and entry.numel:
        return "it has no values (meta device)" if entry.storage.device == "meta" else "its storage has no bytes"
    return why_not(entry.dtype)


def _sources(table: TensorTable) -> list[tuple[Source, tuple[int, int]]]:
    """Return the files that the tensors lie in, each with its state now."""
    ranges = [entry.storage.data for entry in table if isinstance(entry.storage.data, ByteRange)]
    return [(source, _state_of(source)) for source in {id(data.source): data.source for data in ranges}.values()]


def _state_of(source: Source) -> tuple[int, int]:
    status = os.fstat(source.fileno())
    return status.st_size, status.st_mtime_ns


def _place(data: Bytes | None) -> tuple[int, int, int]:
    """Return what identifies a range of a file; (0, 0, 0) for anything else."""
    if isinstance(data, ByteRange):
        return id(data.source), data.offset, data.size
    return 0, 0, 0


def _promised_crcs(opened: Opened) -> dict[tuple[int, int, int], tuple[str, int]]:
    """Return, by range, the member's name and the CRC-32 that the container promises.

    torch can be told not to compute CRCs and then writes zeros, so a zero promises nothing.
    """
    return {
        _place(member.data): (member.name, member.crc32)
        for member in opened.members
        if member.crc32 and isinstance(member.data, ByteRange)
    }


def _damaged(source: str, member: str, promised: int, found: int) -> UnreadableFile:
    return UnreadableFile(
        f"{source}: {member} is damaged: its CRC-32 is {found:08x}, the archive says {promised:08x}",
        why="bytes changed after the file was written: a bad disk, or a bad copy; torch.load does not look",
        do=f"get the file again from its source, or save what is whole: rekindle salvage {shlex.quote(source)}",
        code="RK-CONV-09",
    )


def _differs(target: str, what: str) -> UnreadableFile:
    return UnreadableFile(
        f"{target}: the new file is not what it should be: {what}; it was thrown away",
        why="a fault of rekindle, or of the disk",
        do="try again on another disk, and report it",
    )


def _prefixes(key: str) -> Iterator[str]:
    """Yield the key and what stands before each of its dots, and the empty text for the whole object."""
    yield key
    for at in _dots(key):
        yield key[:at]
    yield ""


def _is_under(key: str, lost: set[str]) -> bool:
    return any(prefix in lost for prefix in _prefixes(key.partition("#")[0] if key not in lost else key))
