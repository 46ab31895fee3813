"""`salvage`: what is whole in a damaged file, into a new one, bit for bit, with a list of what is lost and why.

The file is read in spite of its damage (`rekindle.salvaging`, one module per container). Every tensor is written whose
bytes and description are all there; *proven* are those for which a checksum of the file agrees. Nothing is guessed:
bytes that a checksum speaks against are lost, and a name that was concluded from something else is said to be.

Law: the source is never written to, and the target is either whole or as it was before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from rekindle.converting.files import CONTAINER_OF_SUFFIX, refuse_changed, refuse_existing, states_of
from rekindle.converting.result import MAX_LOST, Lost
from rekindle.errors import CannotWrite, NotAModel, UnreadableFile
from rekindle.finding import Finding, Severity
from rekindle.formats import open_path
from rekindle.gather import gather
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.listing import table_of
from rekindle.opened import Opened
from rekindle.salvaging import Fate, Gone, Wreck
from rekindle.source import ByteRange, Source
from rekindle.store.atomic import write_beside
from rekindle.tensors import Storage, TensorEntry, TensorTable
from rekindle.tree import Map, Record, SetOf, SparseTensor, Tensor, Value, distinct_nodes, walk
from rekindle.writers.pipe import Pipe
from rekindle.writers.safetensors import NamedTensor, why_not, write_tensors

__all__ = ["Lost", "Rescued", "Salvage", "default_target", "find_whole", "salvage"]

_MAX_VISITS = 1_000_000
_OTHER_ZIPS = frozenset({"torchscript", "torch-export", "torch-package"})
_NAMELESS = ("lost", "partly", "doubtful")

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rescued:
    """A tensor of the new file.

    Attributes:
        key: its name.
        dtype: its element type, torch's name.
        shape: its sizes.
        proven: whether checksums of the damaged file agree for its bytes and for what describes them.
        damaged: what speaks against its bytes, where they are written all the same because that was asked for; empty
            where nothing does.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    proven: bool
    damaged: str = ""


@dataclass(frozen=True, slots=True)
class Salvage:
    """What `salvage` did.

    Attributes:
        source: as it was given.
        target: the new file.
        format: container of the damaged file.
        container: ``safetensors`` or ``torch-zip``.
        size_bytes: of the new file.
        written: its tensors.
        lost: what it does not hold.
        findings: what is wrong with the source, and what was concluded.
        described: how names and shapes are known: ``whole`` (as saved), ``mended``, ``doubtful``, ``partly``,
            ``by another file`` or ``lost``.
    """

    source: str
    target: str
    format: str
    container: str
    size_bytes: int
    written: tuple[Rescued, ...]
    lost: tuple[Lost, ...]
    findings: tuple[Finding, ...]
    described: str = "whole"

    @property
    def is_whole(self) -> bool:
        """Whether no tensor is lost or damaged, and none has lost its name or shape."""
        if any(loss.is_tensor for loss in self.lost) or any(tensor.damaged for tensor in self.written):
            return False
        return self.described not in {"partly", "lost"}


def default_target(source: str) -> str:
    """Return the name that the new file gets where none is given: ``model.pth`` -> ``model.rescued.safetensors``."""
    name = os.path.normpath(source)
    stem, suffix = os.path.splitext(name)
    return (
        stem if suffix.lower() in {*CONTAINER_OF_SUFFIX, ".distcp", ".tar", ".zip"} else name
    ) + ".rescued.safetensors"


def salvage(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    like: str | os.PathLike[str] | None = None,
    keep_damaged: bool = False,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Salvage:
    """Write what is whole in a damaged file into a new one.

    Args:
        source: a `torch.save` file, a stream, a safetensors file or a ``.distcp`` file, cut or overwritten anywhere; or
            any file or folder that rekindle lists.
        target: the new file, ``.safetensors`` or ``.pth``; `default_target` where it is None.
        like: another file of the same model. Its names and shapes are used where the damaged file's are lost.
        keep_damaged: also write tensors whose bytes a checksum speaks against. They are named in the report, and in the
            new file's metadata under ``rekindle.damaged``, so it must be a ``.safetensors`` file.
        force: replace `target` if it is there.
        limits: what reading may cost.
        progress: called with the bytes written so far.

    Returns:
        What was written, with a mark on each tensor that is proven, and what is lost.

    Raises:
        UnreadableFile: nothing in it can be rescued; nothing is written.
        CannotWrite: the target is the source, is a folder, is there without `force`, or has another suffix.
        OSError: the source is missing, the disk is full, ...; the target is as it was.

    Example:
        >>> from rekindle.verbs.salvage import salvage
        >>> done = salvage("cut.pth", "rescued.safetensors")  # doctest: +SKIP
        >>> [tensor.key for tensor in done.written if tensor.proven]  # doctest: +SKIP
        ['conv1.weight', 'conv1.bias']
    """
    given = os.fspath(source)
    goal = default_target(given) if target is None else os.fspath(target)
    container = _container_for(goal)
    _refuse_target(given, goal, force=force)
    if keep_damaged and container != "safetensors":
        raise CannotWrite(
            f"{goal}: damaged tensors are written to .safetensors files only",
            why="a .pth file has no place that says which of its tensors are damaged",
            do=f"rekindle salvage {given} -o {default_target(goal)} --keep-damaged",
        )
    other = None if like is None else os.fspath(like)
    wreck = find_whole(given, like=other, keep_damaged=keep_damaged, limits=limits)
    try:
        return _Rescue(wreck, given, goal, container, limits).write(force=force, progress=progress)
    finally:
        wreck.close_files()


def find_whole(
    path: str, *, like: str | None = None, keep_damaged: bool = False, limits: Limits = DEFAULT_LIMITS
) -> Wreck:
    """Return what is left of a file, without writing anything; `Wreck.close_files` must be called.

    Raises:
        UnreadableFile: nothing of it can be read.
        OSError: it is missing or may not be read.
    """
    if os.path.isdir(path):
        pieces = _listed(open_path(path, limits), limits, keep_damaged=keep_damaged)
        if like is not None and pieces.described in _NAMELESS:
            pieces.findings.append(
                Finding(
                    "RK-SALV-05",
                    "like-does-not-fit",
                    Severity.WARNING,
                    f"{like}: not used; the pieces of a folder are not named after another file's tensors",
                    why="they come in an order of their own, and two of one size could not be told apart",
                )
            )
        return pieces
    source = Source(path)
    try:
        wreck = _explore(source, path, limits, keep_damaged=keep_damaged)
        if like is not None and (wreck is None or (wreck.format == "safetensors" and wreck.described in _NAMELESS)):
            wreck = _placed_like(source, like, limits, wreck) or wreck
        if wreck is None:
            wreck = _listed(open_path(path, limits), limits, keep_damaged=keep_damaged)
    except BaseException:
        source.close()
        raise
    close_other = wreck.close_files

    def close() -> None:
        close_other()
        source.close()

    wreck.close_files = close
    if like is not None and wreck.described in _NAMELESS:
        from rekindle.salvaging.like import name_by  # noqa: PLC0415 - only when asked for

        with open_path(like, limits) as other:
            name_by(wreck, other.table, like)
    return wreck


def _explore(source: Source, path: str, limits: Limits, *, keep_damaged: bool = False) -> Wreck | None:
    """Return what is left of a file of a container that has a module of its own; None for others."""
    from rekindle.formats import safetensors, torch_stream  # noqa: PLC0415

    head = source.head(4096)
    if torch_stream.is_stream(head[:64]):
        from rekindle.salvaging import torch_stream as streams  # noqa: PLC0415

        return streams.explore(source, limits)
    archived = head.startswith(b"PK\x03\x04")  # what looks like a header then stands behind it
    if not archived and (safetensors.sniff(head, source) or (b'"data_offsets"' in head and source.size >= 9)):
        from rekindle.salvaging import safetensors as flat  # noqa: PLC0415

        return flat.explore(source, limits)
    if head[:1] == b"\x1f" or head[:2] == b"BZ":
        return None
    try:
        opened = open_path(path, limits)
    except UnreadableFile:  # also a number in its directory that no limit allows
        opened = Opened(path, "torch-zip", source.size, None, TensorTable(()), listed=False)
    with opened:
        # Archives of other kinds hold their tensors under other names: their own reader knows them.
        hurt = not opened.listed or any(finding.severity is Severity.ERROR for finding in opened.findings)
        if opened.listed and opened.format not in {*_OTHER_ZIPS, "torch-zip", "distcp", "not-a-model"}:
            return None
        whole = opened.format == "torch-zip" and opened.listed
        known = [f for f in opened.findings if f.code in {"RK-FILE-15", "RK-FILE-14"}] if whole else []
        impostor = None if opened.listed or opened.format != "not-a-model" else opened.findings
    from rekindle.salvaging import appended, other_zips, torch_zip  # noqa: PLC0415

    if not opened.listed or any(finding.code == "RK-FILE-15" for finding in opened.findings):
        wreck = appended.explore(source, limits)
        if wreck is not None:
            return wreck
    if hurt:
        wreck = other_zips.explore(source, limits, keep_damaged=keep_damaged)
        if wreck is not None:
            return wreck
    if opened.listed and opened.format in _OTHER_ZIPS:
        return None
    wreck = torch_zip.explore(source, limits, keep_damaged=keep_damaged)
    if wreck is None and impostor:
        raise NotAModel(impostor[0].what, why=impostor[0].why, do=impostor[0].do, code=impostor[0].code)
    if wreck is not None:
        wreck.findings[:0] = known
    return wreck


def _placed_like(source: Source, like: str, limits: Limits, known: Wreck | None) -> Wreck | None:
    """Lay the other file's header over a safetensors file whose own is broken; None where the two disagree."""
    from rekindle.salvaging.like import place_by  # noqa: PLC0415

    with open_path(like, limits) as other:
        if other.format != "safetensors" or not other.listed:
            return None
        wreck = Wreck(source.path, "safetensors", source.size, described="by another file")
        base = 8 + int(str(other.facts["header_bytes"]))
        placed = place_by(source, other.table, base)
    places = {key: tensor.storage.data for key, tensor, _ in placed}
    for key, tensor in known.tree.pairs if known is not None and isinstance(known.tree, Map) else ():
        if (
            isinstance(tensor, Tensor)
            and tensor.storage.data is not None
            and places.get(str(key)) != tensor.storage.data
        ):
            return None
    for _, tensor, fate in placed:
        wreck.decide(tensor.storage, fate)
    wreck.tree = Map([(key, tensor) for key, tensor, _ in placed])
    wreck.findings.append(
        Finding(
            "RK-SALV-06",
            "named-by-another-file",
            Severity.WARNING,
            f"names, shapes and places are those of {like}, whose header has {base:,} bytes",
            why="the file's own header is lost; it is right only if both were written from the same model",
        )
    )
    return wreck


def _listed(opened: Opened, limits: Limits, *, keep_damaged: bool = False) -> Wreck:
    """Return a file or folder that its own reader lists; records with a checksum are compared when they are written."""
    if not opened.listed or not len(opened.table):
        worst = opened.findings[0] if opened.findings else None
        path = opened.path
        opened.close()
        raise (NotAModel if opened.format == "not-a-model" else UnreadableFile)(
            worst.what if worst is not None else f"{path}: nothing in it can be rescued",
            why=worst.why if worst is not None else "no tensor is described in what is left of it",
            do=(worst.do if worst is not None else "") or "get the file again from its source",
            code=worst.code if worst is not None else "",
        )
    wreck = Wreck(opened.path, opened.format, opened.size_bytes, opened.tree)
    wreck.findings = list(opened.findings)
    wreck.close_files = opened.close
    absent = opened.facts.get("absent")
    if isinstance(absent, dict):
        wreck.gone.extend(Gone(key, f"its shard {file} is missing or cannot be read") for key, file in absent.items())
    if any(finding.name == "missing-metadata" and finding.severity is Severity.ERROR for finding in opened.findings):
        wreck.described = "lost"
    _compare_members(opened, wreck, limits, keep_damaged=keep_damaged)
    return wreck


def _compare_members(opened: Opened, wreck: Wreck, limits: Limits, *, keep_damaged: bool) -> None:
    """Take the bytes from storages whose record has another CRC-32 than the archive says."""
    from zlib import crc32  # noqa: PLC0415

    promised = {
        (id(member.data.source), member.data.offset): member for member in opened.members if member.crc32 is not None
    }
    for entry in opened.table:
        storage, data = entry.storage, entry.storage.data
        if id(storage) in wreck.fates:
            continue
        if opened.format == "distcp" and not isinstance(data, ByteRange):
            _judge_items(storage, wreck, limits, keep_damaged=keep_damaged)
            continue
        if not isinstance(data, ByteRange):
            continue
        member = promised.get((id(data.source), data.offset))
        if member is None and (promised or opened.format == "distcp"):
            _compare_behind(storage, data, wreck, keep_damaged=keep_damaged)
            continue
        if member is None or not member.crc32 or member.data.size != data.size:
            continue
        crc = 0
        for chunk in data.chunks():
            crc = crc32(chunk, crc)
        if crc == member.crc32:
            wreck.decide(storage, Fate(proven=True))
        else:
            if not keep_damaged:
                storage.data = None
            why = f"its bytes were changed: CRC-32 {crc:08x}, written as {member.crc32:08x}"
            wreck.decide(storage, Fate(proven=False, why=why, damaged=True))


def _judge_items(storage: Storage, wreck: Wreck, limits: Limits, *, keep_damaged: bool) -> None:
    """Judge a tensor of a torch.distributed.checkpoint folder by the checksums of its items."""
    from rekindle.salvaging.distcp import judge_items  # noqa: PLC0415 - rare

    fate = judge_items(storage.data, limits)
    if fate is None:
        return
    if fate.why and not (fate.damaged and keep_damaged):
        storage.data = None
    wreck.decide(storage, fate)


def _compare_behind(storage: Storage, data: ByteRange, wreck: Wreck, *, keep_damaged: bool) -> None:
    """Judge a storage of an archive inside the archive, whose own directory the reader does not give."""
    from rekindle.salvaging.zip_scan import checksums_of  # noqa: PLC0415 - rare

    crc, promised = checksums_of(data)
    if promised is None:
        return
    if crc == promised:
        wreck.decide(storage, Fate(proven=True))
        return
    if not keep_damaged:
        storage.data = None
    why = f"its bytes were changed: CRC-32 {crc:08x}, written as {promised:08x}"
    wreck.decide(storage, Fate(proven=False, why=why, damaged=True))


def _container_for(target: str) -> str:
    suffix = os.path.splitext(target)[1].lower()
    if suffix not in CONTAINER_OF_SUFFIX:
        raise CannotWrite(
            f"{target}: the suffix {suffix!r} does not say which container to write",
            do=f"a name that ends in {', '.join(CONTAINER_OF_SUFFIX)}",
        )
    return CONTAINER_OF_SUFFIX[suffix]


def _refuse_target(source: str, target: str, *, force: bool) -> None:
    if os.path.lexists(target) and os.path.exists(source) and os.path.realpath(source) == os.path.realpath(target):
        raise CannotWrite(
            f"{target}: is the damaged file itself",
            why="a rescue never writes over what it reads",
            do=f"rekindle salvage {source} -o {default_target(source)}",
        )
    refuse_existing(target, f"rekindle salvage {source} -o {target} --force", force=force)


class _Rescue:
    """One rescue: what is written, and what is lost."""

    def __init__(self, wreck: Wreck, source: str, target: str, container: str, limits: Limits) -> None:
        self.wreck = wreck
        self.source = source
        self.target = target
        self.container = container
        self.limits = limits
        self.written: list[Rescued] = []
        self.lost: list[Lost] = [Lost(gone.key, gone.why, is_tensor=True) for gone in wreck.gone]
        self.findings = list(wreck.findings)
        self.table, found = table_of(wreck.tree, limits)
        self.findings.extend(finding for finding in found if finding not in self.findings)

    def write(self, *, force: bool, progress: Progress | None) -> Salvage:
        """Write the new file, read it again, and move it into place."""
        sources = states_of(self.table)
        tensors = self.whole_tensors()
        if not tensors:
            raise self.nothing()
        try:
            with write_beside(self.target, overwrite=force) as out:
                with Pipe(out, progress) as pipe:
                    if self.container == "safetensors":
                        self.lose_values()
                        write_tensors(tensors, pipe, self.metadata())
                    else:
                        self.write_tree(pipe)
                size = out.size
                refuse_changed(sources)
                self.check(out.path)
        except FileExistsError:  # it appeared meanwhile
            _refuse_target(self.source, self.target, force=False)
            raise
        return Salvage(
            self.source,
            self.target,
            self.wreck.format,
            self.container,
            size,
            tuple(self.written),
            tuple(self.lost[:MAX_LOST]),
            tuple(self.findings),
            self.wreck.described,
        )

    def whole_tensors(self) -> list[NamedTensor]:
        """Return the tensors that can be written; the others are lost, each with its reason."""
        tensors: list[NamedTensor] = []
        for entry in self.table:
            why = self.why_lost(entry)
            if not why:
                try:
                    data = gather(entry, conj=entry.conj, neg=entry.neg)
                except UnreadableFile as error:
                    why = error.what.removeprefix(f"{entry.key}: ")
            if why:
                self.lost.append(Lost(entry.key, why, is_tensor=True))
                continue
            tensors.append(NamedTensor(entry.key, entry.dtype, entry.shape, data))
            fate = self.wreck.fates.get(id(entry.storage))
            proven, damaged = (fate.proven, fate.why if fate.damaged else "") if fate is not None else (False, "")
            self.written.append(Rescued(entry.key, entry.dtype, entry.shape, proven, damaged))
        return tensors

    def metadata(self) -> dict[str, str]:
        """Return the texts of the new file: those of the source, and which tensors are damaged."""
        damaged = {tensor.key: tensor.damaged for tensor in self.written if tensor.damaged}
        if not damaged:
            return {"format": "pt", **self.wreck.metadata}
        self.findings.append(
            Finding(
                "RK-SALV-08",
                "damaged-tensors-kept",
                Severity.WARNING,
                f"{len(damaged):,} {'tensor is' if len(damaged) == 1 else 'tensors are'} written although the checksum "
                f"is wrong: {', '.join([*damaged][:4])}" + (" ..." if len(damaged) > 4 else ""),
                why="that was asked for; some of their numbers are not those that were saved, nobody knows which",
            )
        )
        return {"format": "pt", **self.wreck.metadata, "rekindle.damaged": json.dumps(damaged)}

    def why_lost(self, entry: TensorEntry) -> str:
        """Return why a tensor cannot be written; empty where it can."""
        if entry.storage.data is None and entry.numel:
            fate = self.wreck.fates.get(id(entry.storage))
            if fate is not None and fate.why:
                return fate.why
            return "it has no values (meta device)" if entry.storage.device == "meta" else "its bytes are not there"
        if self.container != "safetensors":
            return ""
        if entry.layout not in {"strided", "storage"}:
            return f"a part of a {entry.layout} tensor; safetensors holds plain tensors only, a .pth file has all"
        reason = why_not(entry.dtype)
        return f"{reason}; a .pth file has it" if reason else ""

    def nothing(self) -> UnreadableFile:
        error = next((f for f in self.findings if f.severity is Severity.ERROR), None)
        why = self.lost[0].why if self.lost else "no tensor is described in what is left of it"
        return UnreadableFile(
            f"{self.source}: nothing in it can be rescued; {len(self.lost):,} tensors are lost",
            why=error.what if error is not None else why,
            do="get the file again from its source",
            code="RK-SALV-07",
        )

    def lose_values(self) -> None:
        """List the plain values: a safetensors file holds tensors only."""
        names: list[str] = []
        # A shared container is walked once per path to it, and a hostile file has any number of those.
        for path, node in islice(walk(self.wreck.tree), _MAX_VISITS):
            if isinstance(node, (bool, int, float, complex, str, bytes, Record, SetOf)):
                names.append(".".join(path))
                if len(names) + len(self.lost) >= MAX_LOST:
                    break
        self.lost.extend(
            Lost(name, "a plain value; safetensors holds tensors only, a .pth file has it") for name in names
        )

    def write_tree(self, out: Pipe) -> None:
        """Write the object; what has no bytes is left out of it."""
        from rekindle.writers.pickle_program import program_of  # noqa: PLC0415 - not for safetensors
        from rekindle.writers.torch_zip import write_program  # noqa: PLC0415

        known = {loss.key for loss in self.lost}
        keys = {entry.key for entry in self.table}

        def unfit(path: Sequence[object], why: str) -> None:
            key = ".".join(str(part) for part in path)
            if key not in known:
                self.lost.append(Lost(key, why, is_tensor=key in keys))

        tree = _without_lost(self.wreck.tree, {id(entry.storage) for entry in self.table if entry.key in known})
        for _ in write_program(program_of(tree, unfit=unfit), out):
            pass
        gone = {loss.key for loss in self.lost}
        self.written = [tensor for tensor in self.written if tensor.key not in gone]

    def check(self, path: str) -> None:
        """Read the new file: it must list what was written, no more and no less.

        Raises:
            UnreadableFile: it does not; it is thrown away.
        """
        with open_path(path, self.limits) as made:
            found = {entry.key: (entry.dtype, entry.shape) for entry in made.table}
        wanted = {tensor.key: (tensor.dtype, tensor.shape) for tensor in self.written}
        if found != wanted:
            raise UnreadableFile(
                f"{self.target}: the new file does not list what was written; it was thrown away",
                why="a fault of rekindle, or of the disk",
                do="try again on another disk, and report it",
            )


def _without_lost(tree: Value, lost: set[int]) -> Value:
    """Return the object itself, with no bytes behind tensors that are lost: writers then leave them out."""
    for node in distinct_nodes(tree):
        for tensor in node.parts.values() if isinstance(node, SparseTensor) else (node,):
            if isinstance(tensor, Tensor) and id(tensor.storage) in lost:
                tensor.storage.data = None
    return tree
