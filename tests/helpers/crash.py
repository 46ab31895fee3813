"""Processes that die at a chosen file call, calls that fail, and a record of all calls: the tools of the crash tests.

In a child: `crash.arm()` reads `CRASH_PLAN` from the environment and wraps the functions of `os` that change files.
Only calls that concern paths under the plan's folder count, so that what Python or torch do for themselves does not.
In the parent: `live(...)` runs a child and returns how it ended and what it had promised by then.
A wrapped fsync is counted and may fail, but does not wait for the disk: what the kernel holds survives a kill.
In one process: `wrapped(plan)` wraps the same functions for a block; `plan.calls` then says what was done.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HELPERS = str(Path(__file__).parent)
SOURCE = str(Path(__file__).parents[2] / "src")
PLAN_VARIABLE = "CRASH_PLAN"
MODES = ("before", "after", "torn", "error", "lost")
_WRITING = os.O_WRONLY | os.O_RDWR


@dataclass
class Call:
    """One file call: its name, the path it concerns, the other path of a rename, the bytes of a write."""

    name: str
    path: str
    other: str = ""
    data: bytes = b""


@dataclass
class Plan:
    """What to do to whom.

    Attributes:
        under: folder whose files count.
        nth: number of the call, from 1, that it happens at; 0 for never.
        mode: ``before`` or ``after`` it the process is killed; ``torn``: a write of half its bytes, then killed;
            ``error``: the call fails; ``lost``: an fsync fails and the bytes of the file are gone.
        error: name of the errno for ``error``.
        for_ever: every later call that needs room fails as well.
        keep_data: keep the bytes of writes in `calls` (for power cuts).
        calls: what was called, in order.
    """

    under: str
    nth: int = 0
    mode: str = "before"
    error: str = "EIO"
    for_ever: bool = False
    keep_data: bool = False
    calls: list[Call] = field(default_factory=list)
    happened: bool = False

    def environment(self) -> dict[str, str]:
        """The variable that makes a child's `arm` follow this plan."""
        fields = ("under", "nth", "mode", "error", "for_ever")
        return {PLAN_VARIABLE: json.dumps({name: getattr(self, name) for name in fields})}


def arm() -> Plan | None:
    """Follow the plan in the environment for the rest of this process; None where there is none."""
    text = os.environ.get(PLAN_VARIABLE)
    if not text:
        return None
    plan = Plan(**json.loads(text))
    _Wrapper(plan).install()
    return plan


@contextmanager
def wrapped(plan: Plan) -> Iterator[Plan]:
    """Follow a plan in this process for a block; modes that kill kill this very process."""
    wrapper = _Wrapper(plan)
    wrapper.install()
    try:
        yield plan
    finally:
        wrapper.remove()


@dataclass
class Life:
    """How a child ended."""

    code: int
    promises: list[str]
    output: str
    errors: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def live(argv: list[str], plan: Plan | None = None, *, timeout: float = 60, env: dict[str, str] | None = None) -> Life:
    """Run `python ARGV...` to its end; lines of its output that start with ``promise `` are its promises.

    A promise is written with one `os.write` to the pipe, so what was promised before a kill has arrived.
    """
    done = subprocess.run(
        [sys.executable, *argv],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([HELPERS, SOURCE]),
            **(plan.environment() if plan else {}),
            **(env or {}),
        },
        capture_output=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    output = done.stdout.decode("utf-8", "replace")
    promises = [line.removeprefix("promise ") for line in output.splitlines() if line.startswith("promise ")]
    return Life(done.returncode, promises, output, done.stderr.decode("utf-8", "replace"))


def promise(text: object) -> None:
    """In a child: say that something is saved."""
    os.write(1, f"promise {text}\n".encode())


def kill_me() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class _Wrapper:
    """Puts itself between the program and `os`."""

    names = (
        "open",
        "write",
        "fsync",
        "close",
        "rename",
        "replace",
        "mkdir",
        "unlink",
        "rmdir",
        "ftruncate",
        "truncate",
        "link",
    )

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.under = os.path.realpath(plan.under)
        self.paths: dict[int, str] = {}  # open files and folders under the plan's folder
        self.real = {name: getattr(os, name) for name in self.names}
        self.real_renameat2: Callable[[], Callable[[bytes, bytes, int], int] | None] | None = None
        self.pid = os.getpid()

    def install(self) -> None:
        for name in self.names:
            setattr(os, name, getattr(self, f"_{name}"))
        from rekindle.store import atomic

        self.real_renameat2 = atomic._renameat2
        atomic._renameat2 = self._renameat2

    def remove(self) -> None:
        for name, function in self.real.items():
            setattr(os, name, function)
        from rekindle.store import atomic

        atomic._renameat2 = self.real_renameat2

    def counts(self, path: object) -> str | None:
        """The absolute path where it lies under the folder, None for all others (and in forked children)."""
        if isinstance(path, int) or os.getpid() != self.pid:
            return None
        text = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))
        return text if text == self.under or text.startswith(self.under + os.sep) else None

    def step(self, call: Call, do: Callable[[], object], half: Callable[[], object] | None = None) -> object:
        """Do a call, or what the plan has for it."""
        plan = self.plan
        plan.calls.append(call)
        if plan.happened and plan.for_ever and call.name in {"open", "write", "mkdir", "fsync"}:
            raise self.fault(call)
        if len(plan.calls) != plan.nth:
            return do()
        plan.happened = True
        if plan.mode == "before":
            kill_me()
        if plan.mode == "error":
            raise self.fault(call)
        if plan.mode == "lost" and call.name == "fsync" and os.path.isfile(call.path):
            with open(call.path, "r+b") as file:
                file.truncate(0)
            raise self.fault(call)
        if plan.mode == "torn" and half is not None:
            half()
            kill_me()
        done = do()
        if plan.mode == "after":
            kill_me()
        return done

    def fault(self, call: Call) -> OSError:
        number = getattr(errno, self.plan.error)
        return OSError(number, os.strerror(number), call.path)

    def _open(self, path, flags, mode=0o777, *, dir_fd=None):
        counted = None if dir_fd is not None else self.counts(path)
        if counted is None:
            return self.real["open"](path, flags, mode, dir_fd=dir_fd)
        if flags & _WRITING:
            new = not os.path.lexists(path)
            call = Call("open" if new or flags & os.O_TRUNC else "reopen", counted)
            fd = self.step(call, lambda: self.real["open"](path, flags, mode))
        else:
            fd = self.real["open"](path, flags, mode)
        self.paths[fd] = counted
        return fd

    def _write(self, fd, data):
        path = self.paths.get(fd)
        if path is None or os.getpid() != self.pid:
            return self.real["write"](fd, data)
        view = memoryview(data).cast("B")
        kept = bytes(view) if self.plan.keep_data else b""
        return self.step(
            Call("write", path, data=kept),
            lambda: self.real["write"](fd, view),
            lambda: self.real["write"](fd, view[: len(view) // 2]),
        )

    def _fsync(self, fd):
        path = self.paths.get(fd)
        if path is None or os.getpid() != self.pid:
            return self.real["fsync"](fd)
        return self.step(Call("fsync", path), lambda: None)

    def _close(self, fd):
        path = self.paths.pop(fd, None)
        if path is None or os.getpid() != self.pid or os.path.isdir(path):
            return self.real["close"](fd)
        try:
            return self.step(Call("close", path), lambda: self.real["close"](fd))
        except OSError:
            self.real["close"](fd)  # Linux frees the descriptor whatever close says
            raise

    def _two(self, name, old, new):
        a, b = self.counts(old), self.counts(new)
        if a is None and b is None:
            return self.real[name](old, new)
        return self.step(Call("rename", a or os.fspath(old), b or os.fspath(new)), lambda: self.real[name](old, new))

    def _link(self, old, new):
        a, b = self.counts(old), self.counts(new)
        if a is None or b is None:
            return self.real["link"](old, new)
        return self.step(Call("link", a, b), lambda: self.real["link"](old, new))

    def _rename(self, old, new):
        return self._two("rename", old, new)

    def _replace(self, old, new):
        return self._two("replace", old, new)

    def _renameat2(self):
        real = self.real_renameat2()
        if real is None:
            return None

        def call(old: bytes, new: bytes, flags: int) -> int:
            a, b = self.counts(os.fsdecode(old)), self.counts(os.fsdecode(new))
            if a is None or b is None:
                return real(old, new, flags)
            try:
                return self.step(Call("exchange" if flags == 2 else "rename", a, b), lambda: real(old, new, flags))
            except OSError as error:
                return error.errno

        return call

    def _one(self, name, path, *arguments, **options):
        counted = None if options.get("dir_fd") is not None else self.counts(path)
        if counted is None:
            return self.real[name](path, *arguments, **options)
        return self.step(Call(name, counted), lambda: self.real[name](path, *arguments, **options))

    def _mkdir(self, path, *arguments, **options):
        return self._one("mkdir", path, *arguments, **options)

    def _unlink(self, path, **options):
        return self._one("unlink", path, **options)

    def _rmdir(self, path, **options):
        return self._one("rmdir", path, **options)

    def _ftruncate(self, fd, length):
        path = self.paths.get(fd)
        if path is None or os.getpid() != self.pid:
            return self.real["ftruncate"](fd, length)
        return self.step(Call("ftruncate", path, other=str(length)), lambda: self.real["ftruncate"](fd, length))

    def _truncate(self, path, length):
        return self._one("truncate", path, length)
