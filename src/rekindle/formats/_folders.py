"""Checkpoints of several files in one folder: what their readers share.

A file that another file names is opened only when it lies in the folder. A name with ``..``, a root, a drive or a
backslash is refused; a link is followed where it stays in the folder, or leads into the ``blobs`` of the very same
Hugging Face cache, whose snapshots are folders of links. Every file is recognised by its content.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._archive_storages import settle_storages, within
from rekindle.formats._sources import Pool, PooledSource
from rekindle.limits import Limits
from rekindle.opened import Opened
from rekindle.tensors import TensorTable
from rekindle.tree import Value

__all__ = ["Folder", "cut_list", "is_plain_name", "opened_folder"]

_HEAD_BYTES = 4096


def is_plain_name(name: str, limits: Limits) -> bool:
    """Tell whether a name that a file gives can only mean something inside the folder, as far as the name goes."""
    if not name or len(name) > limits.name_bytes or "\0" in name or "\\" in name or name[1:2] == ":":
        return False
    return all(part not in {"", ".", ".."} for part in name.split("/"))


def cut_list(names: Sequence[str], count: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


class Folder:
    """A folder while it is read: its files, opened on demand, and what was found.

    Args:
        path: the folder.
        limits: caps for each of its files.
    """

    def __init__(self, path: str, limits: Limits) -> None:
        """Open nothing yet."""
        self.path = path
        self.limits = limits
        self.pool = Pool()
        self.findings: list[Finding] = []
        self._known: dict[str, PooledSource] = {}

    def __enter__(self) -> Folder:
        """Return the folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its files where reading failed; otherwise they belong to what was read."""
        if error is not None:
            self.pool.close()

    def source(self, name: str) -> PooledSource | None:
        """Return a file of the folder; None, with a finding, where it is missing, leads outside or may not be read."""
        if name in self._known:
            return self._known[name]
        if not is_plain_name(name, self.limits):
            self._refuse(name, "the name points outside the folder")
            return None
        path = os.path.join(self.path, *name.split("/"))
        if not os.path.lexists(path):
            return None
        if not self._stays_inside(path):
            self._refuse(name, "it is a link that leaves the folder")
            return None
        try:
            self._known[name] = self.pool.source(path)
            return self._known[name]
        except (OSError, UnreadableFile) as error:
            reason = error.strerror if isinstance(error, OSError) else error.what
            self.add("RK-FILE-40", "missing-shard", Severity.ERROR, f"{name} cannot be opened: {reason}", member=name)
            return None

    def exists(self, name: str) -> bool:
        """Tell whether the folder has a file of this name, without opening it."""
        return is_plain_name(name, self.limits) and os.path.lexists(os.path.join(self.path, *name.split("/")))

    def open(self, name: str) -> Opened | None:
        """Read a file of the folder by its content; None, with a finding, where it cannot be read.

        Its findings are the folder's, its storages get the file's name in front.
        """
        source = self.source(name)
        if source is None:
            return None
        try:
            opened = open_source(source, self.limits)
        except LimitExceeded:
            raise
        except UnreadableFile as error:
            self.add(
                "RK-FILE-48",
                "damaged-part",
                Severity.ERROR,
                f"{name}: {error.what.removeprefix(source.path + ': ')}",
                error.why,
                error.do,
                member=name,
            )
            return None
        for finding in opened.findings:
            self.findings.append(within(_without_path(finding, source.path), name))
        settle_storages(opened.tree, f"{name}:")
        return opened

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

    def _refuse(self, name: str, reason: str) -> None:
        self.add(
            "RK-FILE-43",
            "path-outside-folder",
            Severity.DANGER,
            f"{name[:200]!r} is not opened: {reason}",
            "a folder from somebody else could make its reader open any file of this machine",
            member=name[:200],
        )

    def _stays_inside(self, path: str) -> bool:
        if not os.path.islink(path) and os.path.dirname(path) == self.path:
            return True
        real = os.path.realpath(path)
        home = os.path.realpath(self.path)
        return _is_below(real, home) or _is_below(real, _blobs_of(home))


def _blobs_of(home: str) -> str:
    """Return where the files of a Hugging Face cache lie: ``<repo>/snapshots/<commit>`` -> ``<repo>/blobs``."""
    snapshots = os.path.dirname(home)
    if os.path.basename(snapshots) != "snapshots":
        return home
    return os.path.join(os.path.dirname(snapshots), "blobs")


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _without_path(finding: Finding, path: str) -> Finding:
    """Return a finding whose text does not begin with the path of its file: the name comes in front instead."""
    if not finding.what.startswith(path + ": "):
        return finding
    what = finding.what[len(path) + 2 :]
    return Finding(finding.code, finding.name, finding.severity, what, finding.why, finding.do, finding.where)


def open_source(source: PooledSource, limits: Limits) -> Opened:
    """Read a file that is open already, recognised by its content."""
    from rekindle.formats import format_modules  # noqa: PLC0415 - it imports this

    head = source.head(_HEAD_BYTES)
    for module in format_modules():
        # A part of a folder is a file: an index among the parts must not lead to the folder again.
        if hasattr(module, "sniff") and not hasattr(module, "read_folder") and module.sniff(head, source):
            opened: Opened = module.read(source, limits)
            return opened
    raise UnreadableFile(f"{source.path}: no format reads it")


def opened_folder(
    folder: Folder,
    format: str,
    tree: Value,
    table: TensorTable,
    facts: dict[str, object],
    *,
    listed: bool,
) -> Opened:
    """Return what was read of a folder; closing it closes all files."""
    return Opened(
        folder.path,
        format,
        folder.pool.size_bytes,
        tree,
        table,
        tuple(folder.findings),
        (),
        facts,
        folder.pool.close,
        listed=listed,
    )
