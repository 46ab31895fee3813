"""What the machine gives this process: memory, shared memory, open files. Read from /proc, /sys and the limits.

Law: only for failures that are alive here, since a log may come from another machine; what cannot be read is None.
Sources: `cgroups(7)`, the kernel's `cgroup-v2.rst` (``memory.max``, ``memory.events``) and `memory.txt` of version 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rekindle.render import human_bytes

__all__ = ["Memory", "memory", "memory_said", "open_files", "shared_memory", "shared_said"]

_NO_LIMIT = 1 << 60  # version 1 writes a huge number where there is no limit


@dataclass(frozen=True, slots=True)
class Memory:
    """Host memory as this process may use it.

    Attributes:
        limit: bytes that it may use, or None where only the machine itself ends it.
        limit_name: whose limit that is.
        available: bytes that the machine has left, or None.
        kills: how many processes of the group the kernel has ended for want of memory.
    """

    limit: int | None
    limit_name: str
    available: int | None
    kills: int


def memory(root: Path = Path("/")) -> Memory:
    """Return the narrowest limit of this process's groups (or of the process itself) and what is left.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    limits: list[tuple[int, str]] = []
    kills = 0
    for folder, file in _groups(root):
        limit = _number(folder / file)
        if limit is not None and limit < _NO_LIMIT:
            limits.append((limit, "the memory limit of the container or job (cgroup)"))
        kills = max(kills, _kills(folder))
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not on Windows

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if 0 < soft < _NO_LIMIT:
            limits.append((soft, "the limit of address space (ulimit -v)"))
    limit, name = min(limits, default=(None, ""))
    return Memory(limit, name, _available(root), kills)


def memory_said(found: Memory) -> str:
    """Return it as a part of a sentence; empty where nothing is known."""
    said = []
    if found.limit is not None:
        said.append(f"{found.limit_name} is {human_bytes(found.limit)}")
    if found.available is not None:
        said.append(f"{human_bytes(found.available)} of memory are free now")
    if found.kills:
        said.append(f"the kernel has ended {found.kills} of its processes for want of memory (oom_kill)")
    return "; ".join(said)


def shared_memory(path: str = "/dev/shm") -> tuple[int, int] | None:  # noqa: S108 - the kernel's name of it
    """Return the size of the shared memory and what is free of it, in bytes; None where there is none."""
    try:
        found = os.statvfs(path)
    except (OSError, AttributeError):
        return None
    return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail


def shared_said(found: tuple[int, int] | None) -> str:
    """Return it as a part of a sentence; empty where nothing is known."""
    if found is None:
        return ""
    return f"the shared memory (/dev/shm) has {human_bytes(found[0])}, {human_bytes(found[1])} of it free now"


def open_files() -> tuple[int, int] | None:
    """Return how many files this process may open and how many are open now; None where that is not known."""
    try:
        import resource  # noqa: PLC0415 - not on Windows

        return resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.listdir("/proc/self/fd"))
    except (ImportError, OSError, ValueError):
        return None


def _groups(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of this process's memory groups, innermost first, and the name of the limit's file there."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0" and not kinds:
            top, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in kinds.split(","):
            top, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:count]), file


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _kills(folder: Path) -> int:
    for name in ("memory.events", "memory.oom_control"):
        with suppress(OSError, ValueError):
            for line in (folder / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _available(root: Path) -> int | None:
    with suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
