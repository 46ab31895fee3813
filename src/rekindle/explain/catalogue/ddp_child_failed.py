"""The launcher says that a rank ended; why stands in that rank's own lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._ranks import code_said
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-16", "ddp-child-failed", "0.2"
TITLE = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: train.py FAILED"
RAISES = ("ChildFailedError", "CalledProcessError", "ProcessExitedException")
NEEDLES = ("ChildFailedError", "failed (exitcode: ", "local_rank=", "local-rank=", "ProcessExitedException")
PATTERNS = (
    r"Root Cause[^\n]{0,60}\n *\[\d+\]:\n(?:[^\n]{0,200}\n){0,2}? *rank +: (?P<rank>\d+) \(local_rank: (?P<local>\d+)\)\n *exitcode +: (?P<code>-?\d+)",
    r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<local>\d+) \(pid: \d+\)",
    r"^ProcessExitedException: process (?P<local>\d+) terminated with (?:signal (?P<signal>SIG\w+)|exit code (?P<code>\d+))",
    r"^CalledProcessError: Command '[^\n]{0,2000}--local[-_]rank=(?P<local>\d+)[^\n]{0,2000}returned non-zero exit status (?P<code>\d+)",
    r"^CalledProcessError: Command '[^\n]{0,2000}--local[-_]rank=(?P<local>\d+)[^\n]{0,2000}died with <Signals\.(?P<signal>SIG\w+)",
    r"--local[-_]rank=(?P<local>\d+)[^\n]{0,2000}\] exits with return code = (?P<code>-?\d+)",
    r"^(?P<bare>ChildFailedError)\b",
)
OLD = (
    "subprocess.CalledProcessError: Command '['/usr/bin/python3', '-u', 'train.py', '--local_rank=0']' returned non-zero exit status 1.",
    "ERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: -9) local_rank: 3 (pid: 4711) of binary: /usr/bin/python3",
    "torch.multiprocessing.spawn.ProcessExitedException: process 1 terminated with signal SIGKILL",
)
WHY = (
    "The launcher reports that a rank ended, and under *Root Cause (first observed failure)* which one was the first. Its own"
    " traceback stands higher up in the log. Exit codes: 1 an exception in Python; 2 an argument that the script refused; -9 or"
    " 137 killed (memory, the job's limit); -11 or 139 a crash in native code; -6 or 134 an abort (NCCL's watchdog); -7 or 135 a"
    " bus error (shared memory); -15 or 143 ended by the launcher or the scheduler, a consequence."
)
CHECK = "The lines of that rank in the log; `--log-dir logs --tee 3` gives each rank a file; `@record` on `main` brings its traceback into this message."
_NUMBERS = {"SIGKILL": -9, "SIGSEGV": -11, "SIGABRT": -6, "SIGBUS": -7, "SIGTERM": -15, "SIGINT": -2}
_RECORDED = re.compile(r"^ *(?P<said>[A-Z][\w.]*(?:Error|Exception|Interrupt): [^\n]{1,300})$", re.MULTILINE)


def explain(event: Event) -> Iterator[Cause]:
    """The rank that failed first, and what its exit code means."""
    facts = event.facts
    rank = facts.get("rank") or facts.get("local", "")
    who = f"rank {rank}" if rank else "a rank"
    if facts.get("bare") or (not facts.get("code") and not facts.get("signal")):
        yield _unknown(who)
        return
    code = int(facts["code"]) if facts.get("code") else _NUMBERS.get(facts["signal"], -1)
    name, means = code_said(code)
    name = facts.get("signal") or name
    recorded = _RECORDED.findall(event.message.partition("Root Cause")[2])
    ended = f"ended first, with {name}" if facts.get("rank") else f"ended with {name}"
    if recorded:
        yield Cause(
            CODE,
            NAME,
            what=f"{who} {ended}: {recorded[-1]}"[:300],
            why="the other ranks were ended by the launcher; that rank's own traceback is in its lines of the log",
            fix=(f"read the traceback of {who}, higher up in the log",),
            likelihood="likely",
        )
        return
    yield Cause(
        CODE,
        NAME,
        what=f"{who} {ended}",
        why=f"{means}; the other ranks were ended by the launcher",
        fix=_fix(code, name, who),
        likelihood="likely",
    )


def _unknown(who: str) -> Cause:
    return Cause(
        CODE,
        NAME,
        what=f"the launcher says that {who} ended",
        why="which one was the first stands under Root Cause; its own traceback stands higher up in the log",
        fix=(
            "rekindle explain train.log   # with the whole log: it finds the first rank's own error",
            "torchrun --log-dir logs --tee 3 ...   # a file for each rank, next time",
        ),
        likelihood="possible",
    )


def _fix(code: int, name: str, who: str) -> tuple[str, ...]:
    if name == "SIGKILL":
        return (
            "dmesg | tail   # does it say that the kernel ended it for memory; on Slurm: sacct -j JOBID -o State,MaxRSS",
            "#SBATCH --mem=128G   # more memory for the job, or fewer loader workers per rank",
        )
    if name == "SIGBUS":
        return (
            "df -h /dev/shm   # is it full",
            "docker run --shm-size=8g ...   # more shared memory for the loader's workers",
        )
    if name in {"SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL"}:
        return (
            f"read the lines of {who} in front of this   # native code says its own words",
            "python -X faulthandler train.py   # prints the Python line of a crash",
        )
    if name in {"SIGTERM", "SIGHUP", "SIGINT"}:
        return (
            "read the log of the job or of the scheduler   # whoever ended it: the time limit, scancel, a lost terminal",
        )
    if code == 2:
        return ("python train.py --help   # the usage that the rank printed stands higher up",)
    return (
        f"read the traceback of {who}, higher up in the log",
        "@record   # from torch.distributed.elastic.multiprocessing.errors, on main(): brings the traceback into this message",
        "torchrun --log-dir logs --tee 3 ...   # a file for each rank",
    )


_MAKE = """
import os
import signal

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def work():
    if os.environ["RANK"] == "1":
        %s

if __name__ == "__main__":
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, start_method="fork", run_id="one", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=0.1,
    )
    elastic_launch(config, work)()
"""
EXAMPLE = _MAKE % "os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does when memory runs out"
MENDED = _MAKE % "print('rank 1 is done')"
REQUIRES = ("process", "linux")
MESSAGE = ""
