"""Zip archives that hold something other than a `torch.save` pickle, each known by the names of its records.

A format that lives in such archives (`is_archive`, `read_archive`) reads them. The others (a spreadsheet, a Java
archive, a checkpoint zipped once more) are no models, and the finding names the member that matters.
"""

from __future__ import annotations

from rekindle.finding import Finding, Severity, Where
from rekindle.formats._archive_storages import record_names, roots_of
from rekindle.formats._zip_directory import Directory
from rekindle.limits import Limits
from rekindle.opened import Member, Opened
from rekindle.source import Source
from rekindle.tensors import TensorTable

__all__ = ["opened_other"]

_MODEL_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pkl", ".tar", ".onnx", ".h5", ".gguf")

# What an archive is called when it holds one of these names (without the folder around everything).
_BY_NAME = (
    ("[Content_Types].xml", "an Office document (docx, xlsx, pptx)"),
    ("META-INF/MANIFEST.MF", "a Java archive (jar)"),
    ("AndroidManifest.xml", "an Android package (apk)"),
    ("META-INF/container.xml", "an electronic book (epub)"),
    ("mimetype", "an OpenDocument file or an electronic book"),
    ("metadata.json", "a Keras model or another program's archive"),
)


def opened_other(source: Source, directory: Directory, limits: Limits, findings: list[Finding]) -> Opened:
    """Return an archive without a `torch.save` pickle as the format that knows it, or what it is as a finding."""
    from rekindle.formats import format_modules  # noqa: PLC0415 - it imports the formats

    names = record_names(directory)
    readers = [module for module in format_modules() if hasattr(module, "is_archive")]
    for root in (roots := roots_of(names)):
        inner = {name[len(root) :] for name in names}
        for module in readers:
            if module.is_archive(inner):
                if root.count("/") > 1:
                    findings.append(_packed_by_hand(root))
                opened: Opened = module.read_archive(source, directory, limits, findings)
                return opened
    findings.append(_recognise(source.path, names, {name[len(roots[-1]) :] for name in names}))
    members = tuple(Member(r.name, r.raw, r.crc32) for r in directory.records if r.raw is not None)
    return Opened(
        source.path,
        "not-a-model",
        source.size,
        None,
        TensorTable(()),
        tuple(findings),
        members,
        close_files=source.close,
        listed=False,
    )


def _packed_by_hand(root: str) -> Finding:
    return Finding(
        "RK-FILE-30",
        "unusual-root",
        Severity.WARNING,
        f"the records lie in {root[:200]!r}; torch expects exactly one folder around them",
        why="the file was unpacked and packed again by hand",
        do="pack it again without the outer folders; rekindle reads it as it is",
        where=Where(member=root),
    )


def _recognise(path: str, names: list[str], inner: set[str]) -> Finding:
    if not names:
        return _not_a_model(path, "an empty zip archive", names)
    for wanted, kind in _BY_NAME:
        if wanted in inner or wanted in names:
            return _not_a_model(path, kind, names)
    inside = [name for name in names if name.lower().endswith(_MODEL_SUFFIXES)]
    if inside:
        return Finding(
            "RK-FILE-09",
            "archive-around-a-model",
            Severity.ERROR,
            f"{path}: a zip archive with a model inside: {inside[0]}",
            why="it was packed once more after saving",
            do=f"unzip {path}, then rekindle inspect {inside[0]}",
            where=Where(member=inside[0]),
        )
    return _not_a_model(path, f"a zip archive of {len(names):,} other file{'s' * (len(names) > 1)}", names)


def _not_a_model(path: str, kind: str, names: list[str]) -> Finding:
    shown = ", ".join(names[:3])
    return Finding(
        "RK-FILE-22",
        "other-format",
        Severity.ERROR,
        f"{path}: {kind}, no PyTorch model",
        why=f"its first members are {shown}" if names else "it has no members",
        do=f"give the path of the file that torch.save wrote; to see all that is in this one: unzip -l {path}",
    )
