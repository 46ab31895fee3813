"""`scan`: what loading a file would import and call, found without loading it; one verdict, never "clean" by default.

The verdict is the worst finding: a danger makes it *dangerous*, whatever else there is and however the file ends; what
could not be looked at makes it *not analysed*; an unknown import makes it a *notice*; only a file that was understood
to its last byte is *clean*.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from rekindle.errors import RekindleError, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.scanning.content import Role, scan_content
from rekindle.scanning.report import Report, View
from rekindle.source import Source

__all__ = ["VERDICTS", "Scan", "Verdict", "find_dangers", "scan", "worst_verdict"]

Verdict: TypeAlias = Literal["dangerous", "not-analysed", "notice", "clean"]

# Worst first. A danger outranks all else; of what is left, what nobody looked at outranks what is merely unknown.
VERDICTS: tuple[Verdict, ...] = ("dangerous", "not-analysed", "notice", "clean")
_OF_SEVERITY: dict[Severity, Verdict] = {
    Severity.DANGER: "dangerous",
    Severity.ERROR: "not-analysed",
    Severity.WARNING: "notice",
    Severity.NOTE: "clean",
}

_OTHER_KINDS = frozenset({"text", "python-source", "picture", "native-code", "unknown", "zeros", "empty", "raw"})
_FOLDER_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found in a file, or in the files of a folder.

    Attributes:
        path: as it was given; for a file of a folder with the folder in front.
        format: the container, as `inspect` names it, or how it is packed (``gzip``, ``zip``, ``tar``, ``npy``);
            ``not-a-model`` for anything else; ``folder``.
        verdict: ``dangerous``, ``not-analysed``, ``notice`` or ``clean``.
        findings: what led to it, worst first.
        files: for a folder, its files, in the order of their names.
        passed_over: files of a folder that are no models and hold nothing that runs (text, pictures).
    """

    path: str
    format: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    files: tuple[Scan, ...] = ()
    passed_over: int = 0


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of them; ``clean`` where there are none.

    Example:
        >>> worst_verdict(["notice", "dangerous", "clean"])
        'dangerous'
    """
    met = set(verdicts)
    return next((verdict for verdict in VERDICTS if verdict in met), "clean")


def scan(
    path: str | os.PathLike[str],
    *,
    only_models: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[str], None] | None = None,
) -> Scan:
    """Return what loading a file, or any file of a folder, would import and call; nothing of it happens.

    Args:
        path: a file, or a folder that is searched to its leaves. Links that lead out of the folder are not followed.
        only_models: pass over a file that is text or a picture, as is done inside a folder; without it, such a file
            is ``not-analysed``, because it is not the model that somebody meant.
        limits: what looking may cost for each file.
        progress: called with the path of each file before it is looked at.

    Raises:
        UnreadableFile: the path is a pipe or a device.
        OSError: the path is missing or may not be read.

    Example:
        >>> scan("model.pth").verdict  # doctest: +SKIP
        'clean'
    """
    given = os.fspath(path)
    if os.path.isdir(given):
        return _scan_folder(given, limits, progress)
    if progress is not None:
        progress(given)
    found = _scan_file(given, limits)
    return (only_models and _passed_over(found)) or found


def find_dangers(path: str, limits: Limits = DEFAULT_LIMITS, *, storages: bool = True) -> list[Finding]:
    """Return what `scan` calls dangerous in a file or folder: what `inspect` and `doctor` say of it.

    Args:
        path: any file or folder that was opened a moment ago.
        limits: what looking may cost for each file.
        storages: also look at the bytes of tensors. Without them only programs and directories are read.

    Returns:
        The findings, each once; those of a folder name the file. Empty where it cannot be read.
    """
    try:
        whole = (
            _scan_folder(path, limits, None, storages=storages)
            if os.path.isdir(path)
            else _scan_file(path, limits, storages=storages)
        )
    except (RekindleError, OSError):  # it was opened a moment ago: what is wrong with it is said by then
        return []
    found = [finding for finding in whole.findings if finding.severity is Severity.DANGER]
    for one in whole.files:
        name = os.path.relpath(one.path, path)
        found += [
            replace(finding, what=f"{name}: {finding.what}")
            for finding in one.findings
            if finding.severity is Severity.DANGER
        ]
    return list(dict.fromkeys(found))


def _scan_file(path: str, limits: Limits, *, follow: bool = True, storages: bool = True) -> Scan:
    report = Report(limits, storages)
    with Source(path, follow=follow) as source:
        try:
            kind = scan_content(View(source), report, Role.FILE)
        except UnreadableFile as error:
            kind = "unknown"
            report.unreadable("RK-SCAN-20", "unreadable-file", error.what, Where(), error.why)
    if kind == "empty":
        report.unreadable("RK-SCAN-18", "not-a-model", "the file is empty", Where(offset=0))
    if report.left_out:
        report.add(
            "RK-SCAN-10", "limit-reached", Severity.NOTE, f"{report.left_out:,} more findings are not listed", Where()
        )
    findings = tuple(sorted(report.findings, key=lambda finding: finding.severity.rank))
    return Scan(path, "not-a-model" if kind in _OTHER_KINDS else kind, _verdict_of(findings), findings)


def _verdict_of(findings: Iterable[Finding]) -> Verdict:
    return worst_verdict(_OF_SEVERITY[finding.severity] for finding in findings)


def _passed_over(found: Scan) -> Scan | None:
    """Return a scan without the finding that it is no model, None where that is not all that was found."""
    if found.format != "not-a-model" or any(finding.code != "RK-SCAN-18" for finding in found.findings):
        return None
    return Scan(found.path, found.format, "clean", ())


# ---- folders


def _scan_folder(path: str, limits: Limits, progress: Callable[[str], None] | None, *, storages: bool = True) -> Scan:
    files: list[Scan] = []
    findings: list[Finding] = []
    passed_over = 0
    for name, problem in _walk(path, findings, limits):
        if problem:
            files.append(_unread(name, problem))
            continue
        if progress is not None:
            progress(name)
        try:
            found = _scan_file(name, limits, follow=False, storages=storages)
        except UnreadableFile as error:
            files.append(_unread(name, error.what))
            continue
        except OSError as error:
            files.append(_unread(name, f"{name}: {(error.strerror or str(error)).lower()}"))
            continue
        if _passed_over(found) is not None:
            passed_over += 1
        else:
            files.append(found)
    verdict = worst_verdict([*(file.verdict for file in files), _verdict_of(findings)])
    return Scan(path, "folder", verdict, tuple(findings), tuple(files), passed_over)


def _unread(path: str, what: str) -> Scan:
    finding = Finding("RK-SCAN-20", "unreadable-file", Severity.ERROR, what, "it was not looked at")
    return Scan(path, "not-a-model", "not-analysed", (finding,))


def _walk(root: str, findings: list[Finding], limits: Limits) -> Iterator[tuple[str, str]]:
    """Yield (path, problem) of the files below a folder, in order of their names; needs no recursion."""
    inside = os.path.realpath(root) + os.sep
    pending = [(root, 0)]
    count = 0
    while pending:
        folder, depth = pending.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, f"{folder}: {(error.strerror or str(error)).lower()}"
            continue
        folders = []
        for entry in entries:
            count += 1
            if count > limits.members:
                findings.append(
                    Finding("RK-SCAN-10", "limit-reached", Severity.ERROR, f"{root}: more than {count - 1:,} files")
                )
                return
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if not target.startswith(inside):
                    yield entry.path, f"{entry.path}: a link to {target}, out of the folder; scan that by its own name"
            elif entry.is_dir(follow_symlinks=False):
                if depth >= _FOLDER_DEPTH:
                    yield entry.path, f"{entry.path}: folders more than {_FOLDER_DEPTH} deep"
                elif entry.name != ".git":
                    folders.append((entry.path, depth + 1))
            else:
                yield entry.path, ""
        pending.extend(reversed(folders))
