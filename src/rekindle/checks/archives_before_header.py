"""A safetensors file with archives in front of its header: written by torch's Hugging Face checkpoint writer."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, counted
from rekindle.finding import Finding, Severity, Where
from rekindle.source import Source

CODE, NAME, SINCE = "RK-FILE-88", "archives-before-header", "0.1"
WHY = (
    "HuggingFaceStorageWriter of torch was given values that are no tensors: it reports success and writes an archive "
    "per value in front of the header, so that nothing opens the file"
)
DO = "rekindle salvage {path} -o {stem}.rescued.safetensors"


def check(case: Case) -> Iterator[Finding]:
    """Look for a header behind the archives, where something follows an archive."""
    opened = case.opened
    follows = any(finding.code == "RK-FILE-15" for finding in opened.findings)
    if opened.format not in {"torch-zip", "distcp"} or (opened.listed and not follows):
        return
    from rekindle.salvaging.appended import find_header  # noqa: PLC0415 - rare, and it reads the file

    with Source(opened.path) as source:
        found = find_header(source, case.limits)
    if found is None:
        return
    at, count = found
    yield Finding(
        CODE,
        NAME,
        Severity.ERROR,
        f"{counted(count, 'archive', 'stands', 'stand')} in front of a safetensors header, "
        f"which begins at byte {at:,} of {opened.size_bytes:,}",
        why=WHY,
        do=DO.format(path=case.path, stem=case.stem),
        where=Where(offset=at),
    )
