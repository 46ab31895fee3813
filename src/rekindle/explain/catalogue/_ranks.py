"""What a failure of several processes tells: which rank, which exit code, and what that code means."""

from __future__ import annotations

import re

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.event import Event

__all__ = ["code_said", "is_distributed", "seconds_said"]

_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    10: "SIGUSR1",
    11: "SIGSEGV",
    12: "SIGUSR2",
    13: "SIGPIPE",
    15: "SIGTERM",
}
_MEANS = {
    "SIGKILL": "killed: out of host memory, the job's limit, or kill -9",
    "SIGSEGV": "a crash in native code (segmentation fault)",
    "SIGABRT": "an abort: the NCCL watchdog, a failed assertion or broken memory in native code",
    "SIGBUS": "a bus error: mostly shared memory (/dev/shm) that is full",
    "SIGTERM": "told to end, by the launcher or the scheduler",
    "SIGINT": "Ctrl-C",
    "SIGHUP": "the terminal was closed",
    "SIGILL": "an instruction that this processor does not have: a build for another one",
    "SIGFPE": "a division by zero in native code",
}


def is_distributed(event: Event) -> bool:
    """Whether torch.distributed was at work, from the frames or the type."""
    return event.kind.startswith("Dist") or is_in(
        event, "torch/distributed/", "torch/nn/parallel/", "init_process_group"
    )


def code_said(code: int) -> tuple[str, str]:
    """Return an exit code's name and what it means: ``("SIGKILL", "killed: ...")``; a signal is below 0 or above 128.

    Example:
        >>> code_said(-11), code_said(2)[0]
        (('SIGSEGV', 'a crash in native code (segmentation fault)'), 'exit code 2')
    """
    number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
    if number:
        name = _SIGNALS.get(number, f"signal {number}")
        return name, _MEANS.get(name, "ended by a signal")
    if code == 2:
        return "exit code 2", "mostly an argument that its parser refused, or a file that is not there"
    return f"exit code {code}", "an exception in Python" if code == 1 else "the script's own exit code"


def seconds_said(milliseconds: str) -> str:
    """Return milliseconds as people say them: ``10 min``, ``8 s``; empty for an empty text."""
    if not re.fullmatch(r"\d{1,12}", milliseconds):
        return ""
    seconds = int(milliseconds) / 1000
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
