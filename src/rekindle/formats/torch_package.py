"""Archives of `torch.package`: Python sources, pickles and tensors of a model, in folders by package.

Each ``<package>/<resource>.pkl`` is an object of its own; their storages lie in ``.data/<key>.storage`` and may be
shared between them. The tree has one entry per pickle, by its path. Sources and texts are handed on as facts: nothing
in the package is imported, which is what loading it with torch does. TorchScript modules inside (persistent ids
``reduce_package`` and ``torchscript_module``) stay records.

Facts: PyTorch 2.13 `torch/package/package_exporter.py`, `package_importer.py`.
"""

from __future__ import annotations

from rekindle.finding import Finding, Severity
from rekindle.formats._archive_storages import ArchiveReader, directory_of
from rekindle.formats._storages import text_of
from rekindle.formats._zip_directory import Directory
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import Source
from rekindle.tree import Global, Map, Record, Value

__all__ = ["NAME", "is_archive", "read", "read_archive"]

NAME = "torch-package"

_SOURCE_BYTES = 64 * 1024**2


def is_archive(names: set[str]) -> bool:
    """Tell whether these are the records (without the folder around them) of a package."""
    return ".data/extern_modules" in names


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read an archive that is known to be a package; see `read_archive`.

    Raises:
        UnreadableFile: it has no directory.
    """
    findings: list[Finding] = []
    return read_archive(source, directory_of(source, limits, findings), limits, findings)


def read_archive(source: Source, directory: Directory, limits: Limits, findings: list[Finding]) -> Opened:
    """Read the pickles; the storages stay where they are.

    Args:
        source: the open file.
        directory: of the archive, read already.
        limits: caps.
        findings: what was found so far; more is added.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    from rekindle.listing import table_of  # noqa: PLC0415

    archive = _Package(source, directory, _root_of(directory), limits, findings)
    pairs: list[tuple[Value, Value]] = []
    broken = 0
    for name in archive.records:
        if not name.endswith(".pkl") or name.startswith(".data/"):
            continue
        value, readable = archive.program(name, lambda key: f".data/{key}.storage")
        broken += not readable
        if readable:
            pairs.append((name.removesuffix(".pkl"), value))
    tree = Map(pairs)
    table, found = table_of(tree, limits)
    findings.extend(found)
    _report_unread(archive)
    return Opened(
        source.path,
        NAME,
        source.size,
        tree,
        table,
        tuple(findings),
        archive.members(),
        _facts(archive),
        source.close,
        listed=bool(pairs) or not broken,
    )


class _Package(ArchiveReader):
    """An archive whose pickles may refer to more than storages."""

    def other_id(self, pid: Value) -> Value:
        """Return what a persistent id of torch.package means: a call that its pickler reduced to a function."""
        if isinstance(pid, (tuple, list)) and len(pid) == 4 and text_of(pid[0]) == "reduce_package":
            return Record(pid[2], pid[3])
        if isinstance(pid, (tuple, list)) and pid and text_of(pid[0]) == "torchscript_module":
            return Record(Global("torch.package", "torchscript_module"), tuple(pid[1:]))
        return super().other_id(pid)


def _root_of(directory: Directory) -> str:
    end = ".data/extern_modules"
    roots = [record.name[: -len(end)] for record in directory.records if record.name.endswith(end)]
    return min(roots, key=len, default="")


def _report_unread(archive: ArchiveReader) -> None:
    """Say which records are neither pickles nor texts."""
    others = [
        name
        for name, record in archive.records.items()
        if record.size
        and not name.endswith((".pkl", ".py"))
        and not name.startswith(".data/")
        and name not in {"byteorder", "version"}
    ]
    scripted = [name for name in archive.records if name.startswith(".data/ts_code/")]
    if scripted:
        archive.add(
            "RK-FILE-51",
            "not-listed",
            Severity.WARNING,
            "the package holds TorchScript modules in .data/ts_code; their tensors are not listed",
            "they refer to code in a form of its own; torch.package.PackageImporter loads them",
            member=scripted[0],
        )
    if others:
        shown = ", ".join(others[:4]) + (" and more" if len(others) > 4 else "")
        archive.add(
            "RK-FILE-51",
            "not-listed",
            Severity.NOTE,
            f"{len(others):,} other files of the package ({shown}) are not listed",
            "texts and binary resources that its author added",
            member=others[0],
        )


def _facts(archive: ArchiveReader) -> dict[str, object]:
    facts: dict[str, object] = {"byteorder": archive.byteorder}
    extern = archive.text(".data/extern_modules", 1024**2)
    facts["extern_modules"] = [line for line in (extern or "").splitlines() if line]
    for fact, name in (("version", ".data/version"), ("python_version", ".data/python_version")):
        text = archive.text(name, 4096)
        if text is not None:
            facts[fact] = text.strip()
    sources: dict[str, str] = {}
    left = _SOURCE_BYTES
    for name, record in archive.records.items():
        if name.endswith(".py") and record.size <= left and (text := archive.text(name, left)) is not None:
            sources[name] = text
            left -= record.size
    if sources:
        facts["sources"] = sources
    return facts
