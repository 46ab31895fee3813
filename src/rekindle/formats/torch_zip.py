"""What `torch.save` has written since 1.6: a zip archive of one pickle and one record per storage.

The root folder is *found* (the folder that holds ``data.pkl``), never derived from the file's name: files get renamed.
Old archives lack every record but ``data.pkl``, ``data/N`` and ``version``; a missing ``byteorder`` means little.
Law: a record's size must hold what the pickle says. torch with ``mmap=True`` trusts the pickle and reads on into the
neighbouring record; here such a storage has no bytes and the file a finding.

Facts: PyTorch 2.13 `torch/serialization.py` (`_save`, `_load`) and `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

from collections.abc import Callable

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._sources import rescue_words
from rekindle.formats._storages import odd_persistent_id, read_storage_id
from rekindle.formats._zip_directory import Directory, inflate, read_directory, walk_local_headers
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Member, Opened
from rekindle.source import ByteRange, Source
from rekindle.tensors import Storage, TensorTable
from rekindle.tree import Global, Record, StorageRef, Value

__all__ = ["NAME", "read", "sniff"]

NAME = "torch-zip"

# Tensors that several processes have a part of each.
_SPREAD = frozenset(("DTensor", "ShardedTensor"))
_END_RECORD = b"PK\x05\x06"


def sniff(head: bytes, source: Source) -> bool:
    """Tell whether it is a zip archive, also one with something put in front of it."""
    if head.startswith((b"PK\x03\x04", _END_RECORD)):
        return True
    if source.size < 22 or head.startswith((b"{", b"version https://git-lfs", b"\x1f\x8b")):
        return False
    # Something was prepended: the end record says so, standing exactly at the end (a search would find it in any data).
    return source.read(source.size - 22, 4) == _END_RECORD


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read the directory and the pickle; the storages stay where they are.

    Returns:
        ``torch-zip``; or ``torchscript``, ``torch-export``, ``torch-package``, ``not-a-model`` where the archive holds
        something else, with a finding that says what.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    findings: list[Finding] = []
    directory = read_directory(source, limits, findings)
    if (findings or directory is None) and _line_ends_were_changed(source):
        from rekindle.formats.impostors import mangled_finding  # noqa: PLC0415 - rare

        return _unlisted(source, [mangled_finding(source.path)])
    if directory is None:
        return _read_cut_archive(source, limits, findings)
    if directory.prepended and source.head(4) == b"PK\x03\x04":
        # Archives one after another; or one that was cut somewhere behind an archive that it holds.
        from rekindle.formats import distcp  # noqa: PLC0415 - rare

        # An item of such a file is no such file again, whatever its bytes say.
        if type(source) is Source and distcp.sniff(source.head(4), source):
            return distcp.read(source, limits)
        return _read_cut_archive(source, limits, [])
    root = _find_root(directory)
    names = {record.name for record in directory.records}
    # A package may hold a pickle of that name among others.
    packaged = any(name.endswith(".data/extern_modules") for name in names)
    if root is None or packaged or root + "constants.pkl" in names:
        from rekindle.formats._other_archives import opened_other  # noqa: PLC0415 - rare

        return opened_other(source, directory, limits, findings)
    return _Archive(source, directory, root, limits, findings).opened()


def _find_root(directory: Directory) -> str | None:
    """Return the folder of the shallowest ``data.pkl``, with its slash; None where there is none."""
    best: str | None = None
    for record in directory.records:
        name = record.name
        if name.endswith("data.pkl") and (len(name) == 8 or name[-9] == "/") and "__MACOSX" not in name:
            root = name[:-8]
            if best is None or root.count("/") < best.count("/"):
                best = root
    return best


class _Archive:
    """One archive while it is read: the records by name and the storages met so far."""

    def __init__(
        self, source: Source, directory: Directory, root: str, limits: Limits, findings: list[Finding]
    ) -> None:
        self.source = source
        self.directory = directory
        self.root = root
        self.limits = limits
        self.findings = findings
        self.records = {record.name: record for record in directory.records}
        self.storages: dict[str, Storage] = {}
        self.globals: tuple[Global, ...] = ()
        self.byteorder = self._read_byteorder()

    def opened(self) -> Opened:
        tree, table, readable = self._read_tree()
        facts: dict[str, object] = {"root": self.root.rstrip("/"), "byteorder": self.byteorder}
        for fact, name in (
            ("version", "version"),
            ("format_version", ".format_version"),
            ("storage_alignment", ".storage_alignment"),
            ("serialization_id", ".data/serialization_id"),
        ):
            text = self._small_text(name)
            if text is not None:
                facts[fact] = text
        if type(self.source) is Source and any(name.name in _SPREAD for name in self.globals):
            # The file of one rank; in a folder of all ranks its reader needs the description of the parts instead.
            tree, table = self._own_parts(tree, table, facts)
        self._report_layout()
        members = tuple(Member(r.name, r.raw, r.crc32) for r in self.directory.records if r.raw is not None)
        return Opened(
            self.source.path,
            NAME,
            self.source.size,
            tree,
            table,
            tuple(self.findings),
            members,
            facts,
            self.source.close,
            listed=readable,
            globals=self.globals,
        )

    def _own_parts(self, tree: Value, table: TensorTable, facts: dict[str, object]) -> tuple[Value, TensorTable]:
        from rekindle.formats.fsdp_ranks import of_one_rank  # noqa: PLC0415 - rare
        from rekindle.listing import table_of  # noqa: PLC0415

        tree, parts, found = of_one_rank(tree, self.limits)
        if not parts:
            return tree, table
        facts["parts"] = parts
        listed = {finding.name for finding in self.findings}
        table, again = table_of(tree, self.limits)
        self.findings.extend(finding for finding in again if finding.name not in listed)
        self.findings.extend(found)
        return tree, table

    def _read_tree(self) -> tuple[Value, TensorTable, bool]:
        from rekindle.formats._nested import nested_reader  # noqa: PLC0415 - pulls in the pickle machine
        from rekindle.listing import table_of  # noqa: PLC0415
        from rekindle.unpickling.machine import run_program  # noqa: PLC0415

        record = self.records[self.root + "data.pkl"]
        if record.data is None:
            return None, TensorTable(()), False
        try:
            nested = nested_reader(self.limits, self.findings)
            program = inflate(record.data, self.limits.pickle_bytes, record.name)
            outcome = run_program(program, persistent=self.persistent, nested=nested, limits=self.limits)
        except LimitExceeded:
            raise
        except UnreadableFile as error:
            self.findings.append(
                Finding(
                    error.code or "RK-FILE-07",
                    "broken-pickle",
                    Severity.ERROR,
                    f"{record.name}: {error.what}",
                    error.why,
                    error.do,
                    Where(member=record.name),
                )
            )
            return None, TensorTable(()), False
        self.findings.extend(outcome.findings)
        self.globals = tuple(outcome.globals)
        if outcome.end < len(program):
            self.findings.append(
                Finding(
                    "RK-FILE-15",
                    "trailing-bytes",
                    Severity.WARNING,
                    f"{len(program) - outcome.end:,} bytes follow the end of the pickle in {record.name}",
                    why="no version of torch writes them; they are not read",
                    where=Where(member=record.name, offset=outcome.end),
                )
            )
        tree = outcome.value
        table, found = table_of(tree, self.limits)
        self.findings.extend(found)
        return tree, table, True

    def persistent(self, pid: Value) -> Value:
        """Return the storage that a persistent id means."""
        said = read_storage_id(pid)
        if said is None:
            self.findings.append(odd_persistent_id(pid))
            return Record(Global("rekindle", "persistent_id"), (pid,))
        wanted = said.numel * said.dtype.itemsize
        storage = self.storages.get(said.key)
        if storage is None:
            storage = self.storages[said.key] = self._storage(said.key, wanted, said.location)
        elif wanted > storage.size_bytes and storage.data is not None:
            self._report_short(said.key, wanted, storage.size_bytes)
            storage.data = None
        return StorageRef(storage, said.dtype.name, 0, said.numel)

    def _storage(self, key: str, wanted: int, location: str) -> Storage:
        name = f"{self.root}data/{key}"
        record = self.records.get(name)
        if location == "meta":
            return Storage(key, wanted, None, location, self.byteorder)
        if record is None or record.data is None:
            if record is None and wanted:
                self.findings.append(
                    Finding(
                        "RK-FILE-19",
                        "missing-storage",
                        Severity.ERROR,
                        f"the pickle refers to storage {key} of {wanted:,} bytes; the archive has no {name}",
                        why="the record was removed, or the archive was repacked without it",
                        where=Where(member=name),
                    )
                )
            return Storage(key, wanted, None, location, self.byteorder)
        data = record.data
        if record.size < wanted:
            self._report_short(key, wanted, record.size)
            return Storage(key, wanted, None, location, self.byteorder)
        if record.size > wanted:
            self.findings.append(
                Finding(
                    "RK-FILE-18",
                    "storage-size-mismatch",
                    Severity.WARNING,
                    f"{name} has {record.size:,} bytes, the pickle needs {wanted:,}",
                    why="the pickle or the record was changed after saving; torch refuses or ignores the rest",
                    where=Where(member=name),
                )
            )
            if isinstance(data, ByteRange):
                data = data.sub(0, wanted)
            else:
                return Storage(key, record.size, data, location, self.byteorder)
        return Storage(key, wanted, data, location, self.byteorder)

    def _report_short(self, key: str, wanted: int, size: int) -> None:
        self.findings.append(
            Finding(
                "RK-FILE-18",
                "storage-size-mismatch",
                Severity.ERROR,
                f"{self.root}data/{key} has {size:,} bytes, the pickle needs {wanted:,}",
                why="torch.load with mmap=True would read on into the next record without saying so",
                do="do not load this file with mmap=True; get it again from its source",
                where=Where(member=f"{self.root}data/{key}"),
            )
        )

    def _read_byteorder(self) -> str:
        text = self._small_text("byteorder")
        if text in {"little", "big"}:
            return text
        if text is not None:
            self.findings.append(
                Finding(
                    "RK-FILE-28",
                    "odd-byteorder",
                    Severity.WARNING,
                    f"the byteorder record says {text[:40]!r}; little is assumed",
                    why="torch writes little or big and refuses anything else",
                    where=Where(member=self.root + "byteorder"),
                )
            )
        return "little"

    def _small_text(self, name: str) -> str | None:
        record = self.records.get(self.root + name) or self.records.get(name)
        if record is None or record.data is None or record.size > 4096:
            return None
        try:
            return inflate(record.data, 4096, record.name).decode("ascii", "replace").strip()
        except UnreadableFile:
            return None

    def _report_layout(self) -> None:
        """Report what keeps torch from reading the archive, and storages that nothing refers to."""
        depth = self.root.count("/")
        if depth != 1:
            self.findings.append(
                Finding(
                    "RK-FILE-30",
                    "unusual-root",
                    Severity.WARNING,
                    f"data.pkl lies in {self.root!r}; torch.load expects exactly one folder around it",
                    why="the file was unpacked and packed again by hand",
                    do="convert it: the copy is in the form that torch reads",
                    where=Where(member=self.root + "data.pkl"),
                )
            )
        packed = [r for r in self.directory.records if r.compressed and r.name.startswith(self.root)]
        if packed:
            self.findings.append(
                Finding(
                    "RK-FILE-31",
                    "compressed-records",
                    Severity.WARNING,
                    f"{len(packed):,} of {len(self.directory.records):,} records are compressed",
                    why="torch stores them as they are; another tool packed this archive again",
                    do="convert it: the copy can be mapped into memory and read in parts",
                    where=Where(member=packed[0].name),
                )
            )
        prefix = self.root + "data/"
        used = {prefix + key for key in self.storages}
        extra = [r for r in self.directory.records if r.name not in used and r.size and r.name.startswith(prefix)]
        if extra and self.storages:
            self.findings.append(
                Finding(
                    "RK-FILE-29",
                    "unreferenced-storage",
                    Severity.NOTE,
                    f"{len(extra):,} storages of {sum(r.size for r in extra):,} bytes belong to no tensor",
                    why="the pickle was edited after saving, or it hides them",
                    where=Where(member=extra[0].name),
                )
            )


def _read_cut_archive(source: Source, limits: Limits, findings: list[Finding]) -> Opened:
    """Say how far an archive without its directory goes: the pickle comes first, so its tensors are usually known."""
    needed, storages = _declared_storages(source, limits)
    whole = 0
    at_end = source.size
    last = ""
    if storages:
        sizes = {f"data/{key}": size for key, size in storages.items()} | {"data.pkl": needed}
        for name, _, _, complete in walk_local_headers(source, sizes):
            last = name
            whole += complete and name.partition("/")[2].startswith("data/")
    total = sum(storages.values())
    what = f"{source.path}: the archive ends before its directory"
    if storages and total > at_end:
        what += f"; found {at_end:,} bytes, its {len(storages):,} storages alone need {total:,}"
        what += f"; {whole:,} of them are whole"
    elif storages:
        what += f"; found {at_end:,} bytes; {whole:,} of its {len(storages):,} storages are whole"
    else:
        what += f"; found {at_end:,} bytes"
    zeros = _zero_tail(source)
    if zeros:
        why = f"the last {zeros:,} bytes or more are zeros: the power failed while saving, or the copy was never filled"
    else:
        why = "the copy or the download stopped early, or the disk filled up while saving"
    findings.append(
        Finding(
            "RK-FILE-04",
            "truncated-archive",
            Severity.ERROR,
            what,
            why=why,
            do=rescue_words(source) if whole else "copy or download it again and compare the sizes",
            where=Where(member=last or None, offset=at_end),
        )
    )
    return _unlisted(source, findings)


def _unlisted(source: Source, findings: list[Finding]) -> Opened:
    return Opened(
        source.path,
        NAME,
        source.size,
        None,
        TensorTable(()),
        tuple(findings),
        close_files=source.close,
        listed=False,
    )


def _line_ends_were_changed(source: Source) -> bool:
    """Tell whether every line feed has a carriage return before it, and there are too many for chance."""
    sample = source.head(1024**2)
    feeds = sample.count(b"\n")
    return feeds >= 16 and sample.count(b"\r\n") == feeds


def _declared_storages(source: Source, limits: Limits) -> tuple[int, dict[str, int]]:
    """Return the size of the pickle at the start of a cut archive and the bytes of each storage it refers to."""
    from rekindle.formats._growing import run_growing  # noqa: PLC0415

    if source.size < 30:
        return 0, {}
    header = source.read(0, 30)
    at = 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if header[:4] != b"PK\x03\x04" or at > source.size:
        return 0, {}

    def fresh() -> tuple[dict[str, int], Callable[[Value], Value]]:
        sizes: dict[str, int] = {}

        def persistent(pid: Value) -> Value:
            said = read_storage_id(pid)
            if said is None:
                return None
            sizes.setdefault(said.key, said.numel * said.dtype.itemsize)
            return StorageRef(Storage(said.key, sizes[said.key], None), said.dtype.name, 0, said.numel)

        return sizes, persistent

    try:
        sizes, outcome = run_growing(source, at, limits, fresh)
    except UnreadableFile:
        return 0, {}
    return outcome.end - at, sizes


def _zero_tail(source: Source) -> int:
    length = min(4096, source.size)
    return length if length and not any(source.read(source.size - length, length)) else 0
