"""Containers on disk: each file here recognises one from its bytes, never from its name, and hands out what is in it.

A format is a module with

    NAME                        what `Opened.format` says
    sniff(head, source)         whether the file is of this kind; `head` is its first 4,096 bytes
    read(source, limits)        the file as `Opened`
    sniff_folder(path)          the same for folders
    read_folder(path, limits)
    is_archive(names)           the same for zip archives: by the names of the records, without the folder around them
    read_archive(source, directory, limits, findings)

as far as they make sense for it, and is found by walking this package: adding a file is enough. Modules whose name
starts with an underscore are shared helpers. `impostors` is asked last and never says no, so that every file gets an
answer.

Codes of this side: RK-FILE-01 to RK-FILE-39; each has one name, given where the finding is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from rekindle.collecting import without_collecting
from rekindle.errors import UnreadableFile
from rekindle.finding import Finding, Severity
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import Source
from rekindle.tensors import TensorTable

__all__ = ["format_modules", "open_path"]

_HEAD_BYTES = 4096


# Asked before the others, since most files are one of these, and each module that is asked must be imported first.
_FIRST = ("torch_zip", "safetensors", "torch_stream")
# Our own folders hold files that others know as well.
_FIRST_FOLDERS = ("run", "snapshot")
# Never says no.
_LAST = "impostors"


def format_modules(first: tuple[str, ...] = _FIRST) -> Iterator[ModuleType]:
    """Yield the format modules of this package in the order in which they are asked, importing each when it is due.

    Args:
        first: names of those to ask before the others.
    """
    names = {name for name in _module_names() if not name.startswith("_")}
    for name in (*first, *sorted(names - {*first, _LAST}), _LAST):
        yield import_module(f"{__name__}.{name}")


def _module_names() -> set[str]:
    try:
        # A folder listing costs a tenth of what pkgutil does; `inspect` is held to 150 ms.
        files = os.listdir(__path__[0])
    except OSError:  # imported from a zip archive
        from pkgutil import iter_modules  # noqa: PLC0415

        return {module.name for module in iter_modules(__path__)}
    return {file[:-3] for file in files if file.endswith(".py")}


def open_path(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read any file or folder as far as its tensors' bytes.

    Args:
        path: a file, or a folder (a run or a snapshot).
        limits: what reading may cost.

    Returns:
        The file as one value, to be used in a ``with`` block. What is wrong with the file is in its `findings`; a file
        that is no model has the format ``not-a-model`` and one finding that says what it is.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
        UnreadableFile: it is a pipe or a device, or it changed while it was read.
        OSError: it is missing or may not be read.

    Example:
        >>> with open_path("model.pth") as opened:  # doctest: +SKIP
        ...     print(opened.format, len(opened.table))
    """
    given = os.fspath(path)
    with without_collecting():
        return _open_folder(given, limits) if os.path.isdir(given) else _open_file(given, limits)


def _open_file(given: str, limits: Limits) -> Opened:
    source = Source(given)
    try:
        head = source.head(_HEAD_BYTES)
        for module in format_modules():
            if hasattr(module, "sniff") and module.sniff(head, source):
                opened: Opened = module.read(source, limits)
                return opened
    except BaseException:
        source.close()
        raise
    source.close()
    raise UnreadableFile(f"{given}: no format reads it")


def _open_folder(path: str, limits: Limits) -> Opened:
    for module in format_modules(_FIRST_FOLDERS):
        if hasattr(module, "sniff_folder") and module.sniff_folder(path):
            opened: Opened = module.read_folder(path, limits)
            return opened
    names = sorted(os.listdir(path))
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")
    models = [name for name in names if name.endswith((".pth", ".pt", ".bin", ".ckpt", ".safetensors"))]
    finding = Finding(
        "RK-FILE-35",
        "not-a-checkpoint-folder",
        Severity.ERROR,
        f"{path}: a folder, and neither a run nor a snapshot of rekindle",
        why=f"it holds {shown}" if names else "it is empty",
        do=f"rekindle inspect {os.path.join(path, models[0])}" if models else "give the path of a file or of a run",
    )
    return Opened(path, "not-a-model", 0, None, TensorTable(()), (finding,), listed=False)
