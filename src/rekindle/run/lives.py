"""One life of a run that is to be killed: its process, what its evidence shows, and where the kill comes.

A kill is SIGKILL to the whole process group, so that workers die with their run, as they do when a machine dies; and to
what left the group, such as the processes that torchrun starts in sessions of their own, which would train on beside
the next life. It comes at a count of steps rather than after so many seconds: a life is watched through the evidence
that it writes, and through the folder where a snapshot in the making lies for some milliseconds.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from rekindle.errors import RekindleError
from rekindle.run.evidence import EVIDENCE_VARIABLE
from rekindle.store.layout import TEMPORARY_PREFIX, snapshots_path

__all__ = ["FOLDER_VARIABLE", "KillPoint", "Process", "let_live", "plan_kills", "wait"]

FOLDER_VARIABLE = "REKINDLE_RUN_FOLDER"

_TAIL_LINES = 12
_GLANCE_S = 0.001


@dataclass(frozen=True, slots=True)
class KillPoint:
    """Where one life is to be killed.

    Attributes:
        when: ``at a step``, ``while saving`` or ``while starting``.
        step: the step count that is waited for; a life that is already past it is killed after its next step.
        delay_s: how long after that.
    """

    when: str
    step: int
    delay_s: float


def plan_kills(count: int, seed: int, *, steps: int, first_save: int, start_s: float, step_s: float) -> list[KillPoint]:
    """Return where to kill, in order of time: drawn from the seed, spread over the run.

    Args:
        count: how many.
        seed: of the draw.
        steps: of the undisturbed run.
        first_save: step of its first snapshot.
        start_s: seconds from the launch to the first batch.
        step_s: seconds of one step.
    """
    draw = random.Random(f"{seed} {count}")
    points = []
    for at in range(count):
        low, high = steps * at // count, steps * (at + 1) // count
        step = max(1, min(draw.randint(low, max(low, high - 1)), steps - 1))
        when = "at a step"
        if at == 0 and count > 1:
            step = max(1, min(step, first_save - 1))
        elif at <= 1:
            step = max(step, min(first_save + 1, steps - 1))
        elif at == 2 or (at > 3 and draw.random() < 0.3):
            when = "while saving"
        elif at == 3 or draw.random() < 0.1:
            when = "while starting"
        longest = {"at a step": min(1.5 * step_s, 0.5), "while saving": 0.002, "while starting": 1.1 * start_s}[when]
        points.append(KillPoint(when, step, draw.uniform(0, longest)))
    return points


# ---- a life, watched


def let_live(process: Process, point: KillPoint | None, longest: float, save_gap_s: float) -> tuple[str, str]:
    """Wait until the life has ended, by our hand or by itself.

    Args:
        process: the life.
        point: where to kill it; None lets it end by itself.
        longest: seconds after which it is given up.
        save_gap_s: seconds between two snapshots.

    Returns:
        How it ended (``killed``, ``finished``, ``failed``, ``timed out``), and where a kill hit.
    """
    if point is None:
        wait(process, longest)
    else:
        landed = _kill_at(process, point, longest, save_gap_s)
        if landed and process.exit_code == -signal.SIGKILL:  # else it ended by itself just before
            return "killed", landed
    if process.exit_code is None:
        return "timed out", ""
    return ("finished" if process.exit_code == 0 else "failed"), ""


def _kill_at(process: Process, point: KillPoint, longest: float, save_gap_s: float) -> str:
    """Kill the life at a point and say where it hit; empty where it ended first, or took too long."""
    if point.when == "while starting":
        if _sleep_while_alive(process, point.delay_s):
            process.kill()
            return "while starting" if not process.steps_seen() else "at a step"
        return ""
    while process.alive():
        seen = process.steps_seen()
        if seen and seen[-1] >= point.step:
            break
        if process.age() > longest:
            return ""
        time.sleep(_GLANCE_S if process.began() else 10 * _GLANCE_S)
    when = "at a step"
    if point.when == "while saving":
        # A snapshot in the making is a folder that lives for milliseconds; if none comes, a step will do.
        limit = time.monotonic() + max(2.0, 3 * save_gap_s)
        while process.alive() and time.monotonic() < limit:
            if process.is_saving():
                when = "while saving"
                break
            time.sleep(_GLANCE_S / 10)
    if not _sleep_while_alive(process, point.delay_s):
        return ""
    process.kill()
    return when if when == "at a step" or process.is_saving() else "at a step"  # it may have been done just in time


def _sleep_while_alive(process: Process, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while process.alive():
        left = end - time.monotonic()
        if left <= 0:
            return True
        time.sleep(min(left, 0.01))
    return False


def wait(process: Process, longest: float | None) -> float:
    """Wait for the end, or kill the life when it takes too long; return the seconds until its first batch."""
    start_s = 0.0
    while process.alive():
        if not start_s and process.acted():
            start_s = process.age()
        if longest is not None and process.age() > longest:
            process.kill()
            process.exit_code = None
            break
        time.sleep(0.005)
    return start_s or process.age()


class Process:
    """A life: the command in a session of its own. Leaving the ``with`` block ends all of it."""

    def __init__(
        self, command: list[str], run_path: str, evidence: str, output: str, environment: dict[str, str]
    ) -> None:
        self.run_path = run_path
        self.exit_code: int | None = None
        self.seconds = 0.0
        self._evidence = evidence
        self._output = output
        self._steps: list[int] = []
        self._read_to = 0
        self._rest = b""
        self._began = self._acted = False
        self._started = time.monotonic()
        variables = {**environment, FOLDER_VARIABLE: run_path, EVIDENCE_VARIABLE: evidence}
        with open(output, "wb") as out:
            try:
                self._popen = subprocess.Popen(  # noqa: S603 - running the user's command is what this is for
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=variables,
                    start_new_session=True,
                )
            except OSError as error:
                raise _cannot_start(command, error) from None

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._popen.poll() is None or self._group_alive() or self._kill_strays():
            self.kill()

    def alive(self) -> bool:
        """Whether it is still running."""
        code = self._popen.poll()
        if code is not None and not self.seconds:
            self.exit_code, self.seconds = code, self.age()
        return code is None

    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    def kill(self) -> None:
        """SIGKILL to the whole group and to what left it, and wait until they are gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self.alive()
        limit = time.monotonic() + 2.0  # workers are dead at once, their last words to the kernel take a moment
        while (self._group_alive() or self._kill_strays()) and time.monotonic() < limit:
            time.sleep(_GLANCE_S)

    def _kill_strays(self) -> bool:
        """Kill what this life has started in other sessions; return whether there was any.

        It is known by the variable that names this life's evidence, which children inherit. Nothing is found where
        there is no ``/proc``.
        """
        mark = os.fsencode(f"{EVIDENCE_VARIABLE}={self._evidence}")
        found = False
        for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
            if not name.isdecimal() or int(name) == os.getpid():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    marked = mark in file.read().split(b"\0")
            except OSError:  # it ended, or is another user's
                continue
            if marked:
                found = True
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(name), signal.SIGKILL)
        return found

    def _group_alive(self) -> bool:
        try:
            os.killpg(self._popen.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def began(self) -> bool:
        """Whether it made its run."""
        self.steps_seen()
        return self._began

    def acted(self) -> bool:
        """Whether it delivered a batch or counted a step."""
        self.steps_seen()
        return self._acted

    def steps_seen(self) -> list[int]:
        """Return the step counts that its evidence shows so far."""
        with suppress(FileNotFoundError), open(self._evidence, "rb") as file:
            file.seek(self._read_to)
            data = file.read()
            self._read_to += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._began = True
                self._acted = self._acted or line.startswith((b'{"event":"batch"', b'{"event":"step"'))
                found = _STEP.match(line)
                if found:
                    self._steps.append(int(found[1]))
        return self._steps

    def is_saving(self) -> bool:
        """Whether a snapshot is being written just now."""
        try:
            return any(name.startswith(TEMPORARY_PREFIX) for name in os.listdir(snapshots_path(self.run_path)))
        except OSError:
            return False

    def tail(self) -> Iterator[str]:
        """Yield the last lines of what it printed."""
        with open(self._output, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16_384))
            text = file.read().decode("utf-8", "replace")
        lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
        yield from [line[:200] for line in lines if line][-_TAIL_LINES:]


_STEP = re.compile(rb'\{"event":"step","step":(\d+)')


def _cannot_start(command: list[str], error: OSError) -> RekindleError:
    program = command[0]
    reason = (error.strerror or str(error)).lower()
    do = "check the spelling, and that it is on the PATH"
    if program.endswith(".py"):
        do = f"rekindle prove -- python {shlex.join(command)}"
    return RekindleError(f"{program}: cannot be started", why=reason, do=do)
