"""The strict edge: what a reader collected as findings, raised as the error that the worst of them makes."""

from __future__ import annotations

from rekindle.errors import NotAModel, UnreadableFile
from rekindle.finding import Severity
from rekindle.opened import Opened

__all__ = ["refuse_damaged"]


def refuse_damaged(opened: Opened) -> None:
    """Raise where the file is damaged, or no model at all; warnings, notes and dangers (which stay inert) pass.

    Raises:
        NotAModel: another kind of file.
        UnreadableFile: damaged, or nothing in it could be read.
    """
    kind = NotAModel if opened.format == "not-a-model" else UnreadableFile
    for finding in opened.findings:
        if finding.severity is Severity.ERROR:
            what = finding.what if opened.path in finding.what else f"{opened.path}: {finding.what}"
            do = finding.do or f"rekindle inspect {opened.path}"
            raise kind(what, why=finding.why, do=do, code=finding.code)
    if not opened.listed:
        raise kind(f"{opened.path}: no object could be read", do=f"rekindle inspect {opened.path}")
