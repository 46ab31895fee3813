"""What the three levels of a launch tell each other: small files in a private folder, and who ends with whom.

    begin-<attempt>-<rank>    a rank has started: its process
    end-<attempt>-<rank>      a rank has ended by itself: its exit code, and the error if there was one
    failed-<attempt>          the agent saw ranks fail: their exit codes, in the order in which it saw them
    cause-<attempt>           ranks that are tied to each other know which of them was lost, and why
    killed-<pid>              the agent ended this rank, which did not end after another one's death
    stopping                  a signal to leave was passed on: no further attempt
    agent                     how the agent itself ended

Law: a note is whole or not there, and a note that cannot be written costs words in a message, nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

__all__ = [
    "AGENT_VARIABLE",
    "COMMAND_VARIABLE",
    "GOOD_ORDER",
    "HANGS",
    "LEFT",
    "NOTES_VARIABLE",
    "SILENT",
    "beginnings",
    "end_with_parent",
    "endings",
    "introduce",
    "read",
    "tell_cause",
    "tell_end",
    "write",
]

NOTES_VARIABLE = "REKINDLE_LAUNCH_NOTES"
COMMAND_VARIABLE = "REKINDLE_COMMAND"
AGENT_VARIABLE = "REKINDLE_LAUNCH_AGENT"
# Exit codes of a rank that left because it was asked to, and has saved: those of `rekindle.run.signals`.
GOOD_ORDER = (75, 130)
# How the news of a lost rank begins where nothing ended; what else is told is how it ended.
HANGS, SILENT, LEFT = "hangs", "does not answer: stopped, or its machine is gone", "ended in the middle of its run"
_PR_SET_PDEATHSIG = 1
_own: tuple[str, str, Mapping[str, Any]] | None = None


def write(folder: str, name: str, value: object) -> None:
    """Write a note."""
    path = os.path.join(folder, name)
    temporary = f"{path}.{os.getpid()}.tmp"
    with contextlib.suppress(OSError):
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file)
        os.replace(temporary, path)


def read(folder: str, name: str) -> dict[str, Any] | None:
    """Return a note, None where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def introduce(folder: str, attempt: str, me: Mapping[str, Any]) -> None:
    """Note that this process is a rank of an attempt, and has begun.

    Args:
        folder: of the notes; "" for none.
        attempt: its number.
        me: ``rank``, ``local_rank`` and ``pid``.
    """
    global _own  # noqa: PLW0603 - a process is one rank of one attempt
    if folder:
        _own = (folder, attempt, me)
        write(folder, f"begin-{attempt}-{me['rank']}", me)


def tell_end(end: Mapping[str, Any]) -> None:
    """Note how this rank ends: ``code``, ``error`` and ``place``. Outside of a launch, do nothing."""
    if _own is not None:
        folder, attempt, me = _own
        write(folder, f"end-{attempt}-{me['rank']}", {**me, **end, "time": time.time()})


def tell_cause(rank: int, text: str) -> None:
    """Note which rank was lost, and why; the first word counts. Outside of a launch, do nothing."""
    if _own is not None and read(_own[0], f"cause-{_own[1]}") is None:
        write(_own[0], f"cause-{_own[1]}", {"rank": rank, "error": text, "time": time.time()})


def beginnings(folder: str, attempt: int | None = None) -> dict[int, dict[str, Any]]:
    """Return what the ranks of an attempt said when they started, by rank; of the last attempt by default."""
    if attempt is None:
        attempts = [int(name.split("-")[1]) for name in _names(folder, "begin-")]
        attempt = max(attempts, default=0)
    return _by_rank(folder, f"begin-{attempt}-")


def endings(folder: str, attempt: int) -> dict[int, dict[str, Any]]:
    """Return what the ranks of an attempt said when they ended, by rank."""
    return _by_rank(folder, f"end-{attempt}-")


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies, however it dies; elsewhere than on Linux, a thread does."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    else:
        threading.Thread(target=_end_when_orphaned, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before that
        os._exit(1)


def _end_when_orphaned(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _by_rank(folder: str, prefix: str) -> dict[int, dict[str, Any]]:
    found = {}
    for name in _names(folder, prefix):
        note = read(folder, name)
        if note is not None:
            found[int(name.removeprefix(prefix))] = note
    return dict(sorted(found.items()))


def _names(folder: str, prefix: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.startswith(prefix) and not name.endswith(".tmp")]
    except OSError:
        return []
