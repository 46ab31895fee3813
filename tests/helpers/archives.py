"""Archives and streams with one thing wrong, made from right ones."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path


def records_of(path: Path) -> list[tuple[str, bytes]]:
    """Return (name, content) of each record."""
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write_archive(path: Path, records: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive with Python's own zip writer."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return path


def changed(path: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    """Write an archive again, each record as `change` gives it; None leaves one out."""
    kept = [change(name, content) for name, content in records_of(path)]
    return write_archive(target, [record for record in kept if record is not None])
