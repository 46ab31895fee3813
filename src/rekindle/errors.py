"""Every exception that rekindle raises on purpose, as one tree.

    RekindleError                       what happened, why, what to do next
    ├── UnreadableFile (ValueError)     the bytes are not what a reader needs them to be
    │   ├── NotAModel                   another kind of file, recognised and named
    │   └── LimitExceeded               reading on would need more than `Limits` allows
    ├── CannotWrite (ValueError)        the target cannot hold this object
    ├── ConfigError (ValueError)        a setting that cannot be meant as written
    ├── CannotPick (RuntimeError)       no GPUs as they were asked for, or CUDA has started already
    └── RunError (RuntimeError)         a run that cannot start, go on or save
        ├── RunLocked                   another process writes this run
        ├── SnapshotDamaged             a snapshot that its manifest does not vouch for
        │   └── OtherVersion            one in the format of another rekindle, which may be whole
        ├── NothingToResume             resume="must" with nothing to resume from
        ├── StateMismatch               what was saved does not fit what is tracked now
        └── NotWritten                  the disk did not answer in time for a snapshot

Each class also inherits the builtin that careful callers already catch. The text has three parts, printed on
three lines: what happened (lower case, no full stop), why, and what to do with the exact command. What is wrong
with the machine (disk full, no permission) stays the `OSError` it is; the command line gives it the same form.
"""

from __future__ import annotations

__all__ = [
    "CannotPick",
    "CannotWrite",
    "ConfigError",
    "LimitExceeded",
    "NotAModel",
    "NotWritten",
    "NothingToResume",
    "OtherVersion",
    "RekindleError",
    "RunError",
    "RunLocked",
    "SnapshotDamaged",
    "StateMismatch",
    "UnreadableFile",
]


class RekindleError(Exception):
    """An error in three parts.

    Args:
        what: what happened, with names and sizes of this case; lower case, no full stop.
        why: the cause, where it is known; may be empty.
        do: what to type or change next; may be empty.
        code: the stable code, such as ``RK-FILE-04``; empty where there is no page about it.
    """

    def __init__(self, what: str, *, why: str = "", do: str = "", code: str = "") -> None:
        """Keep the three parts; `str()` of the error prints them."""
        super().__init__(what)
        self.what = what
        self.why = why
        self.do = do
        self.code = code

    def __str__(self) -> str:
        """Return the three parts, one per line, as they are shown to people."""
        first = f"{self.what}  [{self.code}]" if self.code else self.what
        lines = [first]
        if self.why:
            lines.append(f"  why     {self.why}")
        if self.do:
            lines.append(f"  do      {self.do}")
        return "\n".join(lines)


class UnreadableFile(RekindleError, ValueError):
    """The bytes are not what a reader needs them to be."""


class NotAModel(UnreadableFile):
    """Another kind of file, recognised and named: a web page, an LFS pointer, an archive of something else."""


class LimitExceeded(UnreadableFile):
    """Reading on would need more memory, time or depth than `Limits` allows."""


class CannotWrite(RekindleError, ValueError):
    """The target container cannot hold this object, or the target path cannot be written."""


class ConfigError(RekindleError, ValueError):
    """A setting that cannot be meant as it is written."""


class CannotPick(RekindleError, RuntimeError):
    """No GPUs as they were asked for, or the choice comes too late."""


class RunError(RekindleError, RuntimeError):
    """A run that cannot start, go on or save."""


class RunLocked(RunError):
    """Another process writes this run."""


class SnapshotDamaged(RunError):
    """A snapshot that its manifest does not vouch for."""


class OtherVersion(SnapshotDamaged):
    """A snapshot in the format of another version of rekindle: it may be whole, and is not passed over."""


class NothingToResume(RunError):
    """`resume="must"` found no snapshot to go on from."""


class StateMismatch(RunError):
    """What was saved does not fit what is tracked now."""


class NotWritten(RunError):
    """The disk did not answer in time; trying again would only wait again."""
