"""What is wrong with a file, as values: findings are collected, never raised.

A `Finding` says what happened, why, and what to do; `Where` says at which byte, member or key. Code and name are
stable (`RK-FILE-04`, `truncated-archive`); the words may improve.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Severity", "Where"]


class Severity(Enum):
    """How bad a finding is, worst first."""

    DANGER = "danger"
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 for the worst severity, growing as they get milder."""
        return _ORDER[self]


_ORDER = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a file; every part may be unknown.

    Attributes:
        member: name of the archive member or of the file in a folder.
        offset: byte offset in the file (or in the member, where one is named).
        key: the tensor's key.
    """

    member: str | None = None
    offset: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth saying about a file.

    Attributes:
        code: stable code, ``RK-<FAMILY>-<NN>``.
        name: stable name in kebab case; names the bad thing, never the remedy.
        severity: how bad it is.
        what: what is there, with this file's names and numbers.
        why: the cause; may be empty.
        do: the command or change that helps; may be empty.
        where: the place.
    """

    code: str
    name: str
    severity: Severity
    what: str
    why: str = ""
    do: str = ""
    where: Where = Where()
