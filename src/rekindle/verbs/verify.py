"""`verify`: are the bytes of a checkpoint the ones that were saved? Every checksum in it is computed and compared.

torch writes a CRC-32 for every record and never looks at it again. Here each one is checked, then the sizes against
what the pickle says, and the archive's fingerprint: the last twenty digits of ``.data/serialization_id`` are a hash of
the CRC-32 of all records before it, in the order written. Snapshots and runs have a manifest with a SHA-256 per file.
Where a format has no checksum (safetensors, old streams) there is nothing to compare with, and that is what is said;
digests that `record` put beside the file close the gap, and a file in a Hugging Face cache is named by its SHA-256.

Law: what cannot be verified is called unverifiable, never fine; and looking never writes.

Facts: PyTorch 2.13 `caffe2/serialize/inline_container.cc` (`ostream_write_func` combines the CRC of every descriptor
that passes through it, `writeSerializationId`), `c10/util/hash.h` (`hash_combine`, over 64 bits).
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

from rekindle.errors import CannotWrite, LimitExceeded, NotAModel, RekindleError, UnreadableFile
from rekindle.finding import Finding, Severity
from rekindle.formats import open_path
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.source import ByteRange, Bytes, Source

if TYPE_CHECKING:
    from rekindle.formats._zip_directory import ZipRecord
    from rekindle.opened import Opened
    from rekindle.tensors import TensorTable

__all__ = ["Checked", "Damaged", "Unverifiable", "Verification", "record", "record_path", "verify"]

# Big enough that a call costs nothing, small enough that the bytes are still in the processor's cache for their CRC.
_PIECE_BYTES = 128 * 1024
_RECORD_SUFFIX = ".rekindle.json"
_BLOB = re.compile(r"^[0-9a-f]{64}$")
_LOCAL, _DESCRIPTOR = b"PK\x03\x04", b"PK\x07\x08"
_FORGED = (
    "the archive's fingerprint does not fit, while every record has the CRC-32 that the directory gives it: records "
    "were replaced, added or put in another order after saving"
)

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """One part that was looked at.

    Attributes:
        name: a tensor's key, or the name of a record or file.
        is_key: whether it is a key.
        how: ``crc32``, ``digest`` (SHA-256, or the fingerprint of an archive), ``size`` (only its length could be
            compared) or ``none``.
        ok: whether nothing speaks against it.
        size_bytes: its size.
    """

    name: str
    is_key: bool
    how: str
    ok: bool
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Damaged:
    """One part that is not what was saved.

    Attributes:
        name: a tensor's key, or the name of a record or file.
        is_key: whether it is a key.
        why: what speaks against it.
        keys: the tensors that lie in it.
    """

    name: str
    is_key: bool
    why: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unverifiable:
    """One part for which there is nothing to compare with.

    Attributes:
        name: a tensor's key, or the name of a record or file.
        is_key: whether it is a key.
        why: the reason.
    """

    name: str
    is_key: bool
    why: str


@dataclass(slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        path: as it was given.
        format: the container.
        size_bytes: of the file, or of all files looked at.
        checked: all parts, in the order of the file.
        damaged: those that are not what was saved.
        unverifiable: those that nothing vouches for.
        fingerprint: ``holds``, ``differs`` or ``absent``: the archive's own hash over all its records.
        findings: what is wrong with the container.
    """

    path: str
    format: str
    size_bytes: int = 0
    checked: list[Checked] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)
    unverifiable: list[Unverifiable] = field(default_factory=list)
    fingerprint: str = "absent"
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged; some of it may be unverifiable."""
        return not self.damaged


def verify(
    path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS, progress: Progress | None = None
) -> Verification:
    """Compare every checksum that a file, a folder, a snapshot or a run carries.

    Args:
        path: what to verify.
        limits: what reading may cost.
        progress: called with the bytes read so far.

    Raises:
        NotAModel: it is another kind of file.
        UnreadableFile: it is a pipe or a device, or it changed while it was read.
        OSError: it is missing or may not be read.

    Example:
        >>> from rekindle.verbs.verify import verify
        >>> [part.name for part in verify("model.pth").damaged]  # doctest: +SKIP
        []
    """
    given = os.fspath(path)
    job = _Job(given, limits, progress)
    if os.path.isdir(given):
        job.folder()
    else:
        job.file()
    return job.found


class _Job:
    """One verification: what was found so far, and how many bytes were read."""

    def __init__(self, path: str, limits: Limits, progress: Progress | None) -> None:
        self.path = path
        self.limits = limits
        self.progress = progress
        self.done = 0
        self.buffer = memoryview(bytearray(_PIECE_BYTES))
        self.found = Verification(path, "")

    # --- what there is to look at -------------------------------------------------------------------------------------

    def file(self) -> None:
        """Verify a file by its content."""
        try:
            opened = open_path(self.path, self.limits)
        except LimitExceeded as error:
            if not self.is_damaged_archive(error):
                raise
            return
        with opened:
            self.begin(opened)
            if opened.format == "hub-shards":  # an index that was given by its name
                self.parts_of_folder(opened)
            else:
                keys = _Keys(opened.table)
                self.content(self.path, "", keys, opened)
        self.compare_blob()
        self.compare_record()

    def is_damaged_archive(self, error: LimitExceeded) -> bool:
        """Tell whether a number that no limit allows is damage: the records can be checked without it."""
        with Source(self.path) as source:
            if source.head(4) != _LOCAL:
                return False
            self.found.format, self.found.size_bytes = "torch-zip", source.size
        self.wreck(self.path, "")
        if not self.found.checked:
            return False
        self.damage(self.path, error.what.removeprefix(f"{self.path}: "))
        return True

    def folder(self) -> None:
        """Verify a run, a snapshot, or a checkpoint of several files."""
        from rekindle.store.layout import is_run_folder, is_snapshot_folder  # noqa: PLC0415 - only folders need it

        if is_run_folder(self.path):
            self.found.format = "run"
            self.run()
        elif is_snapshot_folder(self.path):
            self.found.format = "snapshot"
            self.snapshot(self.path, "")
        else:
            with open_path(self.path, self.limits) as opened:
                self.begin(opened)
                self.parts_of_folder(opened)
            self.compare_record()

    def begin(self, opened: Opened) -> None:
        """Note what the reader says, and refuse what is no model."""
        found = self.found
        found.format, found.size_bytes = opened.format, opened.size_bytes
        found.findings.extend(opened.findings)
        if opened.format == "not-a-model":
            worst = opened.findings[0]
            raise NotAModel(worst.what, why=worst.why, do=worst.do, code=worst.code)
        for finding in opened.findings:
            if finding.severity.rank <= Severity.ERROR.rank:
                cut = finding.code in {"RK-FILE-04", "RK-FILE-16"}  # where the file ends is no fault of that place
                key, member = (None, None) if cut else (finding.where.key, finding.where.member)
                what = finding.what.removeprefix(f"{self.path}: ")
                self.damage(key or member or self.path, what, is_key=key is not None)

    def parts_of_folder(self, opened: Opened) -> None:
        """Verify each file that the checkpoint's tensors lie in."""
        keys = _Keys(opened.table)
        base = self.path if os.path.isdir(self.path) else os.path.dirname(self.path) or "."
        listed = [name for fact in ("shards", "files") for name in _names(opened.facts.get(fact))]
        paths = dict.fromkeys([*keys.files, *(os.path.join(base, name) for name in listed)])
        for path in sorted(paths):
            if os.path.isfile(path):
                self.content(path, os.path.relpath(path, base), keys, None)

    def run(self) -> None:
        """Verify all snapshots of a run."""
        from rekindle.store.layout import list_snapshots  # noqa: PLC0415

        snapshots = list_snapshots(self.path)
        for listed in snapshots:
            try:
                self.snapshot(listed.path, f"{listed.name}/")
            except FileNotFoundError:  # its writer removed it meanwhile
                continue
        if not snapshots:
            self.found.unverifiable.append(Unverifiable(self.path, is_key=False, why="the run has saved nothing yet"))

    def snapshot(self, path: str, prefix: str) -> None:
        """Compare the files of a snapshot with its manifest."""
        from rekindle.store.manifest import read_manifest  # noqa: PLC0415

        try:
            manifest = read_manifest(path)
        except RekindleError as error:
            self.check(prefix + "manifest.json", "digest", ok=False, why=error.what)
            return
        for name, facts in sorted(manifest.files.items()):
            why = ""
            where: list[tuple[int, int]] = [(0, facts.size)]
            try:
                with Source(os.path.join(path, name), follow=False) as source:
                    self.found.size_bytes += source.size
                    if source.size != facts.size:
                        why = f"it has {source.size:,} bytes; the manifest says {facts.size:,}"
                    else:
                        blocks = self.sha256_of_blocks(source, facts.block_bytes)
                        why = facts.difference(blocks) or ""
                        where = facts.damaged_ranges(blocks)
            except FileNotFoundError:
                why = "it is missing"
            except UnreadableFile as error:
                why = error.what
            except OSError as error:
                why = f"it cannot be opened: {error.strerror or error}"
            keys = _keys_of_safetensors(os.path.join(path, name), self.limits, where) if why else ()
            self.check(prefix + name, "digest", ok=not why, size=facts.size, why=why, keys=keys)

    # --- one file -----------------------------------------------------------------------------------------------------

    def content(self, path: str, name: str, keys: _Keys, opened: Opened | None) -> None:
        """Verify the records of a file; `name` is what it is called in a folder, empty for the file that was given."""
        with Source(path) as source:
            archives = list(self.archives(source))
            if archives:
                for offset, records in archives:
                    inner = f"{name}@{offset}:" if len(archives) > 1 else f"{name}:" if name else ""
                    self.archive(offset, records, inner, path, keys, single=not name)
            elif source.head(4) == _LOCAL:
                self.wreck(path, name)
            elif opened is None or opened.listed:
                self.without_checksums(source.size, name, opened)

    def archives(self, source: Source) -> Iterator[tuple[int, tuple[ZipRecord, ...]]]:
        """Yield (first byte, records) of the zip archives that a file consists of."""
        from rekindle.formats import torch_zip  # noqa: PLC0415
        from rekindle.formats._zip_directory import read_directory  # noqa: PLC0415
        from rekindle.formats.distcp import sniff as is_row_of_archives  # noqa: PLC0415

        head = source.head(4096)
        if is_row_of_archives(head[:4], source):
            from rekindle.formats._items import walk_items  # noqa: PLC0415
            from rekindle.formats._sources import WindowSource  # noqa: PLC0415

            end = 0
            for offset, size in walk_items(source, self.limits):
                window = WindowSource(source, offset, size, source.path)
                directory = read_directory(window, self.limits, [])
                yield offset, directory.records if directory is not None else ()
                end = offset + size
            if end < source.size:
                self.damage(os.path.basename(source.path), f"no whole item can be read from byte {end:,} on")
            return
        if torch_zip.sniff(head, source):
            directory = read_directory(source, self.limits, [])
            if directory is not None and not (directory.prepended and head[:4] == _LOCAL):
                yield 0, directory.records

    def archive(
        self,
        base: int,
        records: Iterable[ZipRecord],
        prefix: str,
        path: str,
        keys: _Keys,
        *,
        single: bool,
    ) -> None:
        """Compare the CRC-32 of each record of an archive, then its fingerprint."""
        from rekindle.formats._zip_directory import InflatedBytes  # noqa: PLC0415

        inorder = sorted(records, key=lambda record: record.offset)
        computed: dict[str, int] = {}
        broken: dict[str, str] = {}
        for one in inorder:
            if one.data is None:
                broken[one.name] = "its bytes cannot be read: the directory and the file disagree about it"
                continue
            try:
                computed[one.name] = self.crc32(one.data)
            except UnreadableFile as error:
                broken[one.name] = error.what
            if isinstance(one.data, InflatedBytes):
                self.tell(0)
        fingerprint = _fingerprint(inorder, computed)
        for one in inorder:
            name = prefix + one.name
            lies_in = keys.between(path, *_extent(one, base))
            if one.name in broken:
                self.check(name, "crc32", ok=False, size=one.size, why=broken[one.name], keys=lies_in)
                continue
            crc = computed[one.name]
            if crc == one.crc32:
                self.check(name, "crc32", ok=True, size=one.size)
            elif not one.crc32:
                self.unpromised(name, one.size, fingerprint)
            elif _behind(one) == crc or fingerprint == "holds":
                self.check(
                    name,
                    "crc32",
                    ok=False,
                    size=one.size,
                    why=f"the directory has the CRC-32 {one.crc32:08x}, the bytes {crc:08x}; they are whole, since the "
                    "copy of it behind them agrees: the directory was changed",
                )
            else:
                why = f"its CRC-32 is {crc:08x}, the archive says {one.crc32:08x}"
                self.check(name, "crc32", ok=False, size=one.size, why=why, keys=lies_in)
        if single and not prefix:
            self.found.fingerprint = fingerprint
            if fingerprint == "holds":
                self.check(_fingerprint_name(inorder), "digest", ok=True, size=40)
            elif fingerprint == "differs":
                name = _fingerprint_name(inorder)
                self.found.checked.append(Checked(name, is_key=False, how="digest", ok=False, size_bytes=40))
                if not self.found.damaged:  # otherwise it says the same once more
                    self.damage(name, _FORGED)

    def unpromised(self, name: str, size: int, fingerprint: str) -> None:
        """Note a record whose writer computed no CRC-32: the fingerprint of the archive may still vouch for it."""
        if fingerprint == "holds":
            self.check(name, "crc32", ok=True, size=size)
            return
        self.check(name, "none", ok=True, size=size)
        self.found.unverifiable.append(Unverifiable(name, is_key=False, why="it was saved without a CRC-32"))

    def wreck(self, path: str, name: str) -> None:
        """Say of an archive without its directory which tensors are whole all the same."""
        from rekindle.listing import table_of  # noqa: PLC0415
        from rekindle.verbs.salvage import find_whole  # noqa: PLC0415

        try:
            wreck = find_whole(path, limits=self.limits)
        except UnreadableFile:
            return
        try:
            table, _ = table_of(wreck.tree, self.limits)
            for entry in table:
                fate = wreck.fates.get(id(entry.storage))
                key = f"{name}:{entry.key}" if name else entry.key
                if entry.storage.data is None and entry.numel:
                    why = fate.why if fate is not None else "its bytes are not there"
                    self.check(key, "crc32", ok=False, size=entry.size_bytes, why=why, is_key=True)
                elif fate is not None and fate.proven:
                    self.check(key, "crc32", ok=True, size=entry.size_bytes, is_key=True)
                else:
                    self.check(key, "none", ok=True, size=entry.size_bytes, is_key=True)
                    why = "no checksum of it and of its description is left"
                    self.found.unverifiable.append(Unverifiable(key, is_key=True, why=why))
        finally:
            wreck.close_files()

    def without_checksums(self, size_bytes: int, name: str, opened: Opened | None) -> None:
        """Note the tensors of a file whose format has no checksum: only their sizes were compared."""
        why = "its format has no checksum; `rekindle verify --record` puts digests beside the file"
        if opened is None:
            self.check(name, "size", ok=True, size=size_bytes)
            self.found.unverifiable.append(Unverifiable(name, is_key=False, why=why))
            return
        lost = {part.name for part in self.found.damaged if part.is_key}
        for entry in opened.table:
            if entry.key in lost:
                continue
            if entry.storage.data is None and entry.numel:
                if entry.storage.device != "meta":
                    self.check(
                        entry.key, "size", ok=False, size=entry.size_bytes, why="its bytes are not there", is_key=True
                    )
                continue
            self.check(entry.key, "size", ok=True, size=entry.size_bytes, is_key=True)
            self.found.unverifiable.append(Unverifiable(entry.key, is_key=True, why=why))

    # --- digests from elsewhere ---------------------------------------------------------------------------------------

    def compare_blob(self) -> None:
        """Compare a file of a Hugging Face cache with the SHA-256 that is its name there."""
        real = os.path.realpath(self.path)
        folder, name = os.path.split(real)
        if os.path.basename(folder) != "blobs" or not _BLOB.match(name):
            return
        with Source(real) as source:
            ok = self.sha256(source) == name
        self.vouched(
            os.path.basename(self.path), ok=ok, by="the name that its SHA-256 gave it in the Hugging Face cache"
        )

    def compare_record(self) -> None:
        """Compare with the digests that `record` put beside the file."""
        beside = record_path(self.path)
        if not os.path.isfile(beside):
            return
        try:
            recorded = _read_record(beside, self.limits)
        except UnreadableFile as error:
            self.found.findings.append(
                Finding("RK-VER-01", "broken-record", Severity.WARNING, error.what, error.why, error.do)
            )
            return
        differ = [name for name, (size, digest) in recorded.files.items() if not self.holds(name, size, digest)]
        by = os.path.basename(beside)
        for name in recorded.files:
            self.vouched(name, ok=name not in differ, by=by, clear=not differ)
        if differ and recorded.tensors:
            self.compare_tensors(recorded.tensors, by)

    def holds(self, name: str, size: int, digest: str) -> bool:
        path = os.path.join(self.path, name) if os.path.isdir(self.path) else self.path
        try:
            with Source(path) as source:
                return source.size == size and self.sha256(source) == digest
        except (OSError, UnreadableFile):
            return False

    def compare_tensors(self, recorded: Mapping[str, str], by: str) -> None:
        """Name the tensors that differ, in a file that does."""
        from rekindle.verbs.inspect import inspect  # noqa: PLC0415

        found = inspect(self.path, digest=True, limits=self.limits)
        for key, digest in recorded.items():
            if found.digests.get(key) == digest:
                self.check(key, "digest", ok=True, is_key=True)
                continue
            why = f"its SHA-256 is not the one in {by}" if key in found.digests else "it is gone, or cannot be read"
            self.check(key, "digest", ok=False, why=why, is_key=True)
        self.found.unverifiable = [part for part in self.found.unverifiable if part.name not in recorded]

    def vouched(self, name: str, *, ok: bool, by: str, clear: bool = True) -> None:
        """Note a whole file that a digest vouches for; nothing in it is then unverifiable any more."""
        with_size = os.path.getsize(self.path) if os.path.isfile(self.path) else 0
        self.check(name, "digest", ok=ok, size=with_size, why="" if ok else f"it is not what {by} says")
        if ok and clear:
            self.found.unverifiable.clear()

    # --- notes --------------------------------------------------------------------------------------------------------

    def check(
        self,
        name: str,
        how: str,
        *,
        ok: bool,
        size: int = 0,
        why: str = "",
        keys: tuple[str, ...] = (),
        is_key: bool = False,
    ) -> None:
        self.found.checked.append(Checked(name, is_key, how, ok, size))
        if not ok:
            self.damage(name, why, is_key=is_key, keys=keys)

    def damage(self, name: str, why: str, *, is_key: bool = False, keys: tuple[str, ...] = ()) -> None:
        if not any(part.name == name and part.is_key == is_key for part in self.found.damaged[-64:]):
            self.found.damaged.append(Damaged(name, is_key, why, keys))

    def crc32(self, data: Bytes) -> int:
        """Return the CRC-32 of a record."""
        crc = 0
        if not isinstance(data, ByteRange):
            for chunk in data.chunks(_PIECE_BYTES):
                crc = crc32(chunk, crc)
                self.tell(len(chunk))
            return crc
        for piece in self.pieces(data.source, data.offset, data.size):
            crc = crc32(piece, crc)
        return crc

    def sha256(self, source: Source) -> str:
        """Return the SHA-256 of a file."""
        return self.sha256_of_range(source, 0, source.size)

    def sha256_of_blocks(self, source: Source, block_bytes: int) -> list[str]:
        """Return the SHA-256 of each block of a file."""
        return [
            self.sha256_of_range(source, at, min(block_bytes, source.size - at))
            for at in range(0, source.size, block_bytes)
        ]

    def sha256_of_range(self, source: Source, offset: int, size: int) -> str:
        """Return the SHA-256 of a range of a file."""
        from hashlib import sha256  # noqa: PLC0415 - not for archives

        running = sha256()
        for piece in self.pieces(source, offset, size):
            running.update(piece)
        return running.hexdigest()

    def pieces(self, source: Source, offset: int, size: int) -> Iterator[memoryview]:
        """Yield a range in one buffer, piece by piece."""
        for at in range(0, size, _PIECE_BYTES):
            piece = self.buffer[: min(_PIECE_BYTES, size - at)]
            source.read_into(offset + at, piece)
            self.tell(len(piece))
            yield piece

    def tell(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done)


class _Keys:
    """Which tensors lie where: asked with a file and a range of its bytes."""

    def __init__(self, table: TensorTable) -> None:
        """Collect the ranges of all tensors."""
        self.files: dict[str, list[tuple[int, int, str]]] = {}
        for entry in table:
            for path, start, end in _ranges(entry.storage.data):
                self.files.setdefault(path, []).append((start, end, entry.key))
        for rows in self.files.values():
            rows.sort()

    def between(self, path: str, start: int, end: int) -> tuple[str, ...]:
        """Return the keys of the tensors that have bytes in a range."""
        rows = self.files.get(path, [])
        first = bisect_left(rows, (start, 0, ""))
        last = bisect_right(rows, (end, 0, ""))
        found = [key for row_start, row_end, key in rows[first:last] if row_start < end and row_end > start]
        # One that begins before the range and reaches into it: an item of several records, or one of tied tensors.
        at = first - 1
        while at >= 0 and rows[at][1] > start:
            found.append(rows[at][2])
            at -= 1
        return tuple(dict.fromkeys(found))


def _ranges(data: object) -> Iterator[tuple[str, int, int]]:
    """Yield (file, first byte, end) of the ranges that a tensor's bytes are made of."""
    from rekindle.formats._sources import WindowSource  # noqa: PLC0415

    pending = [data]
    for _ in range(1_000_000):
        if not pending:
            return
        one = pending.pop()
        if isinstance(one, ByteRange):
            offset, source = one.offset, one.source
            while isinstance(source, WindowSource):
                offset, source = offset + source.offset, source.base
            yield source.path, offset, offset + one.size
        elif hasattr(one, "source") and hasattr(one, "length") and hasattr(one, "offset"):  # an item of several records
            yield one.source.path, one.offset, one.offset + one.length
        elif hasattr(one, "parts"):
            pending.extend(one.parts)
        elif hasattr(one, "boxes"):
            pending.extend(_behind_reader(box.read) for box in one.boxes)
        else:
            pending.extend(getattr(one, name) for name in ("raw", "data") if hasattr(one, name))


def _behind_reader(read: object) -> object:
    """Return what a piece of an assembled tensor is read from."""
    owner = getattr(read, "__self__", None)
    if owner is not None:
        return owner
    tensor = getattr(read, "tensor", None)
    return getattr(getattr(tensor, "storage", None), "data", None)


def _extent(record: ZipRecord, base: int) -> tuple[int, int]:
    """Return first byte and end of a record in the file itself."""
    if record.raw is None:
        return 0, 0
    return record.raw.offset + base, record.raw.offset + base + record.raw.size


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, (list, tuple)) else []


def _fingerprint_name(records: Iterable[ZipRecord]) -> str:
    return next((one.name for one in records if one.name.endswith(".data/serialization_id")), "")


def _fingerprint(inorder: list[ZipRecord], computed: Mapping[str, int]) -> str:
    """Compare the archive's hash over the CRC-32 of its records; ``absent`` where it has none that can be compared."""
    name = _fingerprint_name(inorder)
    position = next((at for at, one in enumerate(inorder) if one.name == name), None)
    if not name or position is None or name not in computed:
        return "absent"
    own = inorder[position]
    if own.size != 40 or own.data is None:
        return "absent"
    digits = b"".join(own.data.chunks())
    if not digits.isdigit():
        return "absent"
    before = [one for one in inorder[:position] if one.size]  # an empty record has no descriptor, and so no part in it
    if not any(one.crc32 for one in before):
        return "absent"  # torch was told not to compute CRCs
    plain = seen = 0
    for one in before:
        crc = computed.get(one.name)
        if crc is None:
            return "differs"
        plain = _combined(plain, crc)
        # torch finds the descriptors among all that it writes by their signature: data that begins with it counts too.
        opening = _opening(one.data)
        if opening.startswith(_DESCRIPTOR) and len(opening) == 8:
            seen = _combined(seen, int.from_bytes(opening[4:], "little"))
        seen = _combined(seen, crc)
    return "holds" if int(digits[20:]) in {plain, seen} else "differs"


def _combined(seed: int, crc: int) -> int:
    """Return `at::hash_combine` over 64 bits."""
    return (seed ^ (crc + 0x9E3779B9 + (seed << 6) + (seed >> 2))) & 0xFFFFFFFFFFFFFFFF


def _opening(data: Bytes | None) -> bytes:
    """Return the first eight bytes of a stored record."""
    return data.source.read(data.offset, min(8, data.size)) if isinstance(data, ByteRange) else b""


def _behind(one: ZipRecord) -> int | None:
    """Return the CRC-32 that stands behind a record; None where none does."""
    if one.raw is None:
        return None
    end = one.raw.offset + one.raw.size
    tail = one.raw.source.read(end, min(8, one.raw.source.size - end))
    return int.from_bytes(tail[4:8], "little") if tail[:4] == _DESCRIPTOR and len(tail) == 8 else None


def _keys_of_safetensors(path: str, limits: Limits, ranges: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Return the tensors of a snapshot's file that have bytes in these ranges, as far as they can still be told."""
    try:
        with open_path(path, limits) as opened:
            if opened.format != "safetensors":
                return ()
            keys = _Keys(opened.table)
            return tuple(dict.fromkeys(key for start, end in ranges for key in keys.between(path, start, end)))
    except (RekindleError, OSError):
        return ()


# --- digests beside a file -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Record:
    """What a file of digests says: name -> (size, SHA-256), and key -> SHA-256."""

    files: Mapping[str, tuple[int, str]]
    tensors: Mapping[str, str]


def record_path(path: str | os.PathLike[str]) -> str:
    """Return where the digests of a file or folder lie: beside it, its name with ``.rekindle.json`` behind."""
    return os.path.normpath(os.fspath(path)) + _RECORD_SUFFIX


def record(
    path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS, progress: Progress | None = None
) -> Verification:
    """Verify a file or folder, and put its digests beside it, for formats that have none of their own.

    The file of digests is JSON: ``{"rekindle": "digests", "version": 1, "files": {name: {"size", "sha256"}},
    "tensors": {key: {"dtype", "shape", "sha256"}}}``; a tensor's digest is that of its contiguous, little-endian bytes.

    Args:
        path: a checkpoint file, or a folder of several; runs and snapshots have a manifest already.
        limits: what reading may cost.
        progress: called with the bytes read so far.

    Returns:
        The verification, now with digests.

    Raises:
        CannotWrite: it is damaged, or it does not agree with digests that are there already; nothing is written.
        OSError: the file of digests cannot be written.
    """
    given = os.fspath(path)
    before = verify(given, limits=limits, progress=progress)
    if before.format in {"run", "snapshot"}:
        raise CannotWrite(
            f"{given}: a {before.format} has its digests already, in the manifest of each snapshot",
            do=f"rekindle verify {given}",
        )
    if not before.is_whole:
        raise CannotWrite(
            f"{given}: is damaged; its digests would vouch for that",
            why=f"{before.damaged[0].name}: {before.damaged[0].why}",
            do=f"rekindle verify {given}; where the change was meant, remove {record_path(given)} first",
        )
    from rekindle.store.atomic import write_beside  # noqa: PLC0415
    from rekindle.verbs.inspect import inspect  # noqa: PLC0415

    job = _Job(given, limits, progress)
    files = {}
    for name, file in _files_of(given):
        with Source(file) as source:
            files[name] = {"size": source.size, "sha256": job.sha256(source)}
    inspection = inspect(given, digest=True, limits=limits)
    tensors = {
        entry.key: {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "sha256": inspection.digests[entry.key],
        }
        for entry in inspection.table
        if entry.key in inspection.digests
    }
    body = {"rekindle": "digests", "version": 1, "files": files, "tensors": tensors}
    with write_beside(record_path(given)) as out:
        out.write(json.dumps(body, indent=1).encode() + b"\n")
    return verify(given, limits=limits)


def _files_of(path: str) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of a file, or of all files below a folder; links to folders are not followed."""
    if not os.path.isdir(path):
        yield os.path.basename(os.path.normpath(path)), path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                yield os.path.relpath(file, path), file


def _read_record(path: str, limits: Limits) -> _Record:
    """Read a file of digests.

    Raises:
        UnreadableFile: it is not one.
        LimitExceeded: it is larger than `Limits.header_bytes`.
    """
    with Source(path) as source:
        if source.size > limits.header_bytes:
            raise LimitExceeded(
                f"{path}: {source.size:,} bytes of digests",
                why=f"reading is bounded by Limits.header_bytes = {limits.header_bytes:,}",
                do="raise Limits.header_bytes if you trust this file",
            )
        text = source.read(0, source.size)
    try:
        value = json.loads(text)
        if value["rekindle"] != "digests" or value["version"] != 1:
            raise ValueError("another kind of file")  # noqa: TRY301 - one place says what is wrong
        files = {str(name): (int(row["size"]), str(row["sha256"])) for name, row in value["files"].items()}
        tensors = {str(key): str(row["sha256"]) for key, row in value["tensors"].items()}
        if any(os.path.isabs(name) or ".." in name.split("/") for name in files):
            raise ValueError("a name that leads outside")  # noqa: TRY301
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableFile(
            f"{path}: is not a file of digests that can be read: {str(error)[:100]}",
            why="it was edited or cut short",
            do=f"remove it, and make it again from a file you trust: rekindle verify --record "
            f"{path.removesuffix(_RECORD_SUFFIX)}",
        ) from None
    return _Record(files, tensors)
