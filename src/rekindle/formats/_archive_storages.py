"""Pickles and storages among the records of a zip archive: what the formats inside zips share.

A pickle there refers to bytes by ``("storage", class, key, location, elements)``; each format keeps them under another
name (``data/0``, ``constants/0``, ``.data/0.storage``). A record must have exactly the bytes that the pickle says.

Facts: PyTorch 2.13 `torch/package/package_importer.py`, `torch/csrc/jit/serialization/import.cpp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._sources import WindowSource, at_base
from rekindle.formats._storages import odd_persistent_id, read_storage_id
from rekindle.formats._zip_directory import Directory, ZipRecord, inflate, read_directory
from rekindle.limits import Limits
from rekindle.opened import Member, Opened
from rekindle.source import ByteRange, MemorySource, Source
from rekindle.tensors import Storage
from rekindle.tree import Global, Record, StorageRef, Tensor, Value, distinct_nodes

__all__ = [
    "ArchiveReader",
    "directory_of",
    "nested_value",
    "open_inside",
    "record_names",
    "root_where",
    "roots_of",
    "settle_storages",
    "within",
]

# Texts of an archive that are read: names of versions, lists of modules. Source code has a limit of its own.
_SMALL_TEXT = 64 * 1024
# Folders around all records: torch writes one, packing by hand adds some.
_MAX_ROOTS = 8


def record_names(directory: Directory) -> list[str]:
    """Return the names of the records, without folders and what a desktop adds when it packs one."""
    return [
        record.name
        for record in directory.records
        if "__MACOSX" not in record.name and not record.name.endswith(("/", ".DS_Store"))
    ]


def roots_of(names: Sequence[str]) -> list[str]:
    """Return the folders that all names lie in, with their slash, the outermost first; the first is none."""
    roots = [""]
    while names and len(roots) <= _MAX_ROOTS:
        outer = len(roots[-1])
        deeper = names[0][: names[0].find("/", outer) + 1]
        if len(deeper) <= outer or not all(name.startswith(deeper) for name in names):
            break
        roots.append(deeper)
    return roots


def root_where(names: Sequence[str], is_archive: Callable[[set[str]], bool]) -> str | None:
    """Return the outermost folder whose names are what a format expects; None where there is none."""
    for root in roots_of(names):
        if is_archive({name[len(root) :] for name in names}):
            return root
    return None


class ArchiveReader:
    """One archive while it is read: its records without the common folder, and the storages met so far.

    Args:
        source: the open file.
        directory: what its directory says.
        root: the folder around the records, with its slash, or empty.
        limits: caps.
        findings: where what is wrong is put.
    """

    def __init__(
        self, source: Source, directory: Directory, root: str, limits: Limits, findings: list[Finding]
    ) -> None:
        """Index the records by name."""
        self.source = source
        self.directory = directory
        self.root = root
        self.limits = limits
        self.findings = findings
        self.records: dict[str, ZipRecord] = {
            record.name[len(root) :]: record for record in directory.records if record.name.startswith(root)
        }
        self.storages: dict[str, Storage] = {}
        self.byteorder = self._read_byteorder()

    def text(self, name: str, limit: int = _SMALL_TEXT) -> str | None:
        """Return a record's text; None where there is none, or none that can be read within `limit` bytes."""
        record = self.records.get(name)
        if record is None or record.data is None or record.size > limit:
            return None
        try:
            return inflate(record.data, limit, record.name).decode("utf-8", "replace")
        except UnreadableFile:
            return None

    def program(self, name: str, storage_name: Callable[[str], str]) -> tuple[Value, bool]:
        """Run a record as a pickle; return (value, whether it could be run).

        Args:
            name: of the record.
            storage_name: key of a storage -> name of its record.

        Raises:
            LimitExceeded: running on would need more than the limits allow.
        """
        from rekindle.formats._nested import nested_reader  # noqa: PLC0415 - pulls in the pickle machine
        from rekindle.unpickling.machine import run_program  # noqa: PLC0415

        record = self.records.get(name)
        if record is None or record.data is None:
            return None, False
        try:
            program = inflate(record.data, self.limits.pickle_bytes, record.name)
            outcome = run_program(
                program,
                persistent=lambda pid: self.persistent(pid, storage_name),
                nested=nested_reader(self.limits, self.findings),
                limits=self.limits,
            )
        except LimitExceeded:
            raise
        except UnreadableFile as error:
            self.add(
                "RK-FILE-07",
                "broken-pickle",
                Severity.ERROR,
                f"{record.name}: {error.what}",
                error.why,
                member=record.name,
            )
            return None, False
        self.findings.extend(outcome.findings)
        return outcome.value, True

    def persistent(self, pid: Value, storage_name: Callable[[str], str]) -> Value:
        """Return what a persistent id means: a storage, or a record of what it would have been."""
        said = read_storage_id(pid)
        if said is None:
            return self.other_id(pid)
        wanted = said.numel * said.dtype.itemsize
        storage = self.storage(storage_name(said.key), wanted, said.location)
        return StorageRef(storage, said.dtype.name, 0, said.numel)

    def other_id(self, pid: Value) -> Value:
        """Return what stands for a persistent id that is no storage."""
        self.findings.append(odd_persistent_id(pid))
        return Record(Global("rekindle", "persistent_id"), (pid,))

    def storage(self, name: str, wanted: int, device: str) -> Storage:
        """Return the storage of a record, the same one each time; without bytes where it has too few."""
        known = self.storages.get(name)
        if known is not None:
            if wanted > known.size_bytes and known.data is not None:
                self.report_short(name, wanted, known.size_bytes)
                known.data = None
            return known
        storage = Storage(name, wanted, None, device, self.byteorder)
        self.storages[name] = storage
        record = self.records.get(name)
        if device == "meta":
            return storage
        if record is None:
            if wanted:
                self.add(
                    "RK-FILE-19",
                    "missing-storage",
                    Severity.ERROR,
                    f"a tensor of {wanted:,} bytes lies in {name}, which the archive does not have",
                    "the record was removed, or the archive was repacked without it",
                    member=name,
                )
            return storage
        if record.data is None:
            return storage
        if record.size < wanted:
            self.report_short(name, wanted, record.size)
            return storage
        storage.data = record.data
        if record.size > wanted:
            storage.size_bytes = record.size
        return storage

    def report_short(self, name: str, wanted: int, size: int) -> None:
        """Say that a record has fewer bytes than its description needs."""
        self.add(
            "RK-FILE-18",
            "storage-size-mismatch",
            Severity.ERROR,
            f"{name} has {size:,} bytes, its tensors need {wanted:,}",
            "the record or its description was changed after saving",
            "get the file again from its source",
            member=name,
        )

    def add(
        self,
        code: str,
        name: str,
        severity: Severity,
        what: str,
        why: str = "",
        do: str = "",
        *,
        member: str | None = None,
        key: str | None = None,
    ) -> None:
        """Add a finding."""
        self.findings.append(Finding(code, name, severity, what, why, do, Where(member=member, key=key)))

    def members(self) -> tuple[Member, ...]:
        """Return all records as members."""
        return tuple(Member(r.name, r.raw, r.crc32) for r in self.directory.records if r.raw is not None)

    def _read_byteorder(self) -> str:
        text = (self.text("byteorder", 64) or "little").strip()
        if text not in {"little", "big"}:
            self.add(
                "RK-FILE-28",
                "odd-byteorder",
                Severity.WARNING,
                f"the byteorder record says {text[:40]!r}; little is assumed",
                "torch writes little or big and refuses anything else",
                member="byteorder",
            )
            return "little"
        return text


def nested_value(archive: ArchiveReader, name: str) -> tuple[Value, bool]:
    """Return the object in a record that is a whole `torch.save` file; (value, whether it could be read).

    Its findings are added to the archive's, with the record's name in front; its storages get names of their own.
    """
    record = archive.records.get(name)
    if record is None or record.data is None:
        return None, False
    if isinstance(record.data, ByteRange):
        inner: Source = WindowSource(record.data.source, record.data.offset, record.data.size, name)
    else:
        inner = _inflated(record, archive.limits)
    opened = open_inside(inner, archive.limits)
    archive.findings.extend(within(finding, name) for finding in opened.findings)
    settle_storages(opened.tree, f"{name}:")
    return opened.tree, opened.listed


def _inflated(record: ZipRecord, limits: Limits) -> Source:
    if record.data is None:
        raise UnreadableFile(f"{record.name} cannot be read")
    return MemorySource(inflate(record.data, limits.pickle_bytes, record.name), record.name)  # type: ignore[return-value]  # has what readers use


def open_inside(source: Source, limits: Limits) -> Opened:
    """Read a file inside another one by its content: a `torch.save` zip or stream, safetensors, or a bare pickle."""
    from rekindle.formats import pickle, safetensors, torch_stream, torch_zip  # noqa: PLC0415 - they import this

    head = source.head(4096)
    if safetensors.sniff(head, source):
        return safetensors.read(source, limits)
    if torch_stream.sniff(head, source):
        return torch_stream.read(source, limits)
    if pickle.sniff(head, source):
        return pickle.read(source, limits)
    return torch_zip.read(source, limits)


def settle_storages(tree: Value, prefix: str) -> None:
    """Give the storages below a value ids that are unique in the outer file, and ranges of the outer file."""
    seen: set[int] = set()
    for node in distinct_nodes(tree):
        if isinstance(node, (Tensor, StorageRef)) and id(node.storage) not in seen:
            seen.add(id(node.storage))
            node.storage.id = prefix + node.storage.id
            node.storage.data = at_base(node.storage.data)


def within(finding: Finding, name: str) -> Finding:
    """Return a finding about a part as one about the whole: the part's name in front."""
    where = finding.where
    member = name if where.member is None else f"{name}:{where.member}"
    what = finding.what if finding.what.startswith(name) else f"{name}: {finding.what}"
    return Finding(
        finding.code,
        finding.name,
        finding.severity,
        what,
        finding.why,
        finding.do,
        Where(member, where.offset, where.key),
    )


def directory_of(source: Source, limits: Limits, findings: list[Finding]) -> Directory:
    """Return the directory of an archive.

    Raises:
        UnreadableFile: it has none.
        LimitExceeded: it has more members than `Limits.members`.
    """
    directory = read_directory(source, limits, findings)
    if directory is None:
        raise UnreadableFile(
            f"{source.path}: the archive ends before its directory",
            why="the copy or the download stopped early, or it is no archive",
            do="copy or download it again and compare the sizes",
            code="RK-FILE-04",
        )
    return directory
