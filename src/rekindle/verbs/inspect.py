"""`inspect`: what is in a checkpoint, without running any of it and without reading its tensors' bytes.

The answer is one value; `render` makes text or JSON of it. Only `digest=True` reads the tensors, as a stream.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from rekindle.errors import UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats import open_path
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.listing import kind_of, values_of
from rekindle.opened import Opened
from rekindle.tensors import TensorEntry, TensorTable
from rekindle.tree import Value

__all__ = ["Inspection", "inspect"]

# What nearly every checkpoint names; everything else is looked up, which needs a module more.
_USUAL = frozenset(
    {("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")}
    | {("torch", f"{kind}Storage") for kind in ("BFloat16", "Bool", "Byte", "Double", "Float", "Half", "Int", "Long")}
)
# Of these the reader tells every name, or there is none to tell; of others `scan` is asked.
_KNOWN_BY_NAMES = frozenset({"torch-zip", "torch-stream", "pickle", "safetensors", "snapshot", "run", "not-a-model"})
_SHOWN_DANGERS = 8
# A tensor may repeat elements (`expand`), so its elements can outnumber its bytes by any factor.
_FREE_DIGEST_BYTES = 64 * 1024**2
_MAX_REPEAT = 64


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        path: as it was given.
        format: the container: ``torch-zip``, ``torch-stream``, ``safetensors``, ``pickle``, ``snapshot``, ``run``,
            ``torchscript``, ``torch-export``, ``torch-package`` or ``not-a-model``.
        kind: ``tensor``, ``state_dict``, ``checkpoint``, ``module`` or ``object``.
        size_bytes: of the file, or of all files of a folder.
        table: the tensors.
        values: plain values by path: epoch, step, settings; at most 64.
        findings: what is wrong or worth knowing.
        facts: what the container says about itself.
        tree: the object as it was saved.
        digests: key -> SHA-256 of the tensor's contiguous little-endian bytes, where `digest` was asked for.
        listed: whether the object could be read at all.
    """

    path: str
    format: str
    kind: str
    size_bytes: int
    table: TensorTable
    values: Mapping[str, bool | int | float | str]
    findings: tuple[Finding, ...]
    facts: Mapping[str, object]
    tree: Value
    digests: Mapping[str, str] = field(default_factory=dict)
    listed: bool = True


def inspect(
    path: str | os.PathLike[str],
    *,
    digest: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Return what is in a file or folder; nothing in it is executed, imported or trusted.

    Args:
        path: a checkpoint of any kind that rekindle reads, or a run or snapshot folder.
        digest: also read every tensor and give the SHA-256 of its elements, row-major, little-endian.
        limits: what reading may cost.
        progress: called with (tensors done, tensors in all) after each digest.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
        UnreadableFile: it is a pipe or a device, or it changed while it was read.
        OSError: it is missing or may not be read.

    Example:
        >>> import rekindle as rk
        >>> for tensor in rk.inspect("model.pth").table:  # doctest: +SKIP
        ...     print(tensor.key, tensor.dtype, tensor.shape)
    """
    with open_path(path, limits) as opened:
        findings = [*_dangers(opened, limits), *opened.findings]
        digests = _digests(opened.table, findings, progress) if digest else {}
        return Inspection(
            opened.path,
            opened.format,
            kind_of(opened.tree, opened.table),
            opened.size_bytes,
            opened.table,
            values_of(opened.tree),
            tuple(findings),
            opened.facts,
            opened.tree,
            digests,
            opened.listed,
        )


def _dangers(opened: Opened, limits: Limits) -> list[Finding]:
    """Return what `scan` finds dangerous in the file's programs; tensors are not read for it.

    Most files name nothing unusual, and then there is nothing to follow.
    """
    if opened.format in _KNOWN_BY_NAMES:
        pairs = {(found.module, found.name) for found in opened.globals} - _USUAL
        if not pairs:
            return []
        from rekindle.scanning.names import Level, judge  # noqa: PLC0415 - most files name nothing that needs it

        if all(judge(*pair).level is Level.HARMLESS for pair in pairs):
            return []
    import shlex  # noqa: PLC0415 - the same

    from rekindle.verbs.scan import find_dangers  # noqa: PLC0415 - the same

    found = find_dangers(opened.path, limits, storages=False)
    if not found:
        return []
    more = f"; {len(found) - _SHOWN_DANGERS:,} more dangers" if len(found) > _SHOWN_DANGERS else ""
    do = f"do not load it{more}; rekindle scan {shlex.quote(opened.path)}    tells all"
    return [replace(found[0], do=do), *found[1:_SHOWN_DANGERS]]


def _digests(
    table: TensorTable, findings: list[Finding], progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    from hashlib import sha256  # noqa: PLC0415 - only when asked for

    from rekindle.gather import gather  # noqa: PLC0415

    digests: dict[str, str] = {}
    done: dict[tuple[object, ...], str] = {}
    for count, entry in enumerate(table, 1):
        look = (id(entry.storage), entry.dtype, entry.offset, entry.shape, entry.stride, entry.conj, entry.neg)
        if look in done:
            digests[entry.key] = done[look]
            continue
        if not _is_worth_reading(entry, findings):
            continue
        running = sha256()
        try:
            for chunk in gather(entry, conj=entry.conj, neg=entry.neg).chunks():
                running.update(chunk)
        except UnreadableFile as error:
            findings.append(
                Finding(
                    error.code or "RK-FILE-36",
                    "unreadable-tensor",
                    Severity.ERROR,
                    f"{entry.key}: no digest: {error.what}",
                    error.why,
                    error.do,
                    Where(key=entry.key),
                )
            )
            continue
        digests[entry.key] = done[look] = running.hexdigest()
        if progress is not None:
            progress(count, len(table))
    return digests


def _is_worth_reading(entry: TensorEntry, findings: list[Finding]) -> bool:
    """Tell whether a tensor has bytes to digest; a few bytes repeated to terabytes are refused, and said."""
    if entry.storage.data is None and entry.numel:
        return False
    if entry.size_bytes <= max(_FREE_DIGEST_BYTES, _MAX_REPEAT * entry.storage.size_bytes):
        return True
    findings.append(
        Finding(
            "RK-FILE-37",
            "endless-repetition",
            Severity.WARNING,
            f"{entry.key}: no digest: {entry.storage.size_bytes:,} bytes are repeated to {entry.size_bytes:,}",
            why="reading is bounded by what the file holds, not by what it claims",
            where=Where(key=entry.key),
        )
    )
    return False
