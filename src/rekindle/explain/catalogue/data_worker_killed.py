"""A worker process of a DataLoader ended, mostly because the machine ran out of memory."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._host import memory, memory_said
from rekindle.explain.catalogue._loaders import is_starting_twice, loader_call
from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-06", "data-worker-killed", "0.2"
TITLE = "RuntimeError: DataLoader worker (pid(s) 26472) exited unexpectedly"
RAISES = ("RuntimeError", "ConnectionResetError", "EOFError")
NEEDLES = ("DataLoader worker (pid", "ConnectionResetError", "EOFError")
PATTERNS = (
    r"DataLoader worker \(pid (?P<pid>\d+)\) is killed by signal: (?P<signal>[A-Z][\w ]*?)\.",
    r"DataLoader worker \(pid (?P<pid>\d+)\) exited unexpectedly with exit code (?P<code>-?\d+)",
    r"DataLoader worker \(pid\(s\) (?P<pids>\d[\d, ]*)\) exited unexpectedly",
    r"^(?P<broken>ConnectionResetError): \[Errno 104\]",
    r"^(?P<broken>EOFError)$",
)
OLD = (
    "RuntimeError: DataLoader worker (pid 27) is killed by signal: Killed. Details are lost due to multiprocessing. Rerunning with num_workers=0 may give better error trace.",
    "RuntimeError: DataLoader worker (pid 27) is killed by signal: Segmentation fault.",
)
WHY = (
    "A worker is a process of its own, and it ended without a word. `Killed` is SIGKILL: mostly the kernel or the job's"
    " limit, because host memory (not that of the GPU) ran out. Each worker holds what the data set touches, and"
    " `num_workers * prefetch_factor` batches are in flight; large lists of Python objects are copied page by page into"
    " every worker. `Segmentation fault` is a fault in a native library that the data set uses. `Terminated` comes from a"
    " scheduler or from somebody. The signal stands in the upper traceback, above `exited unexpectedly`."
)
CHECK = (
    "`num_workers=0` shows an exception of the data set itself. `dmesg | tail` and `memory.events` of the cgroup"
    " (`oom_kill`) tell whether the kernel did it; `free -g` while it runs tells how memory grows."
)

_FEWER = "DataLoader(..., num_workers={few}, prefetch_factor=1)   # fewer batches at once, fewer copies"
_LISTS = "np.array(items)   # or a memory map, Arrow: in place of long lists of Python objects in the data set"
_SLURM = "#SBATCH --mem=64G   # more memory for the job; docker run --memory=64g"
_ALONE = "DataLoader(..., num_workers=0)   # once: the same failure then shows its own traceback"


def explain(event: Event) -> Iterator[Cause]:
    """By signal or exit code; live with the limits of this machine and what the kernel says it ended."""
    facts = event.facts
    if facts.get("signal", "") == "Bus error" or is_starting_twice(event):
        return  # data-bus-error, data-freeze-support
    if facts.get("broken") and not is_in(event, "torch/utils/data/dataloader.py"):
        return
    who = (
        f"worker process {facts['pid']}"
        if facts.get("pid")
        else f"worker process(es) {facts['pids']}"
        if facts.get("pids")
        else "a worker process"
    )
    signal, code = facts.get("signal", ""), facts.get("code", "")
    if code and int(code) >= 0:
        yield Cause(
            CODE,
            NAME,
            what=f"{who} of the loader ended by itself with exit code {code}",
            why="something in the data set called exit, or the worker failed before it could tell; its own words stand in front of this in the log",
            fix=(_ALONE, "read the lines in front of the traceback   # the worker's own last words"),
        )
        return
    if signal in {"Segmentation fault", "Aborted", "Illegal instruction", "Floating point exception"}:
        yield Cause(
            CODE,
            NAME,
            what=f"{who} of the loader crashed: {signal.lower()}",
            why="a native library that the data set uses (OpenCV, a decoder, HDF5) failed, often because it was opened or had threads before the workers were forked",
            fix=(
                "python -X faulthandler train.py   # prints the Python line where it crashed",
                'DataLoader(..., multiprocessing_context="spawn")   # workers that inherit nothing; open files in the worker',
                "cv2.setNumThreads(0)   # in front of the loader, if it is OpenCV",
            ),
        )
        return
    if signal in {"Terminated", "Interrupt", "Hangup"}:
        yield Cause(
            CODE,
            NAME,
            what=f"{who} of the loader was told to end ({signal.lower()})",
            why="a scheduler whose time is over, Ctrl-C, or whoever ended the job signals all of its processes",
            fix=("read the log of the job (sacct -j JOBID)   # did its time end", _ALONE),
        )
        return
    yield _out_of_memory(event, who, signal)


def _out_of_memory(event: Event, who: str, signal: str) -> Cause:
    how = (
        "killed"
        if signal == "Killed"
        else "gone, without a signal that was seen"
        if event.facts.get("broken") or not signal
        else f"ended by {signal}"
    )
    if signal.startswith("Unknown signal"):
        how = f"ended by {signal.lower()}"
    host = memory() if event.live else None
    workers = loader_call(event).get("num_workers", "")
    few = str(int(workers) // 2) if workers.isdigit() and int(workers) > 3 else "1" if workers else "2"
    seen = memory_said(host) if host else ""
    sure = host is not None and host.kills > 0
    why = "the kernel or the job's limit ends a process where host memory (not the GPU's) runs out"
    yielded = (
        f"{why}: {seen}"
        if seen
        else f"{why}; {'each worker' if not workers else f'each of the {workers} workers'} holds what the data set touches and its batches in flight"
    )
    return Cause(
        CODE,
        NAME,
        what=f"{who} of the loader was {how}" + (f" ({workers} workers)" if workers else ""),
        why=yielded,
        fix=(
            "dmesg | tail   # does it say that the kernel ended it for memory (Out of memory: Killed process)",
            _FEWER.format(few=few),
            _LISTS,
            _SLURM,
        ),
        likelihood="likely" if sure or signal == "Killed" else "possible",
    )


EXAMPLE = """
import os
import signal

from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does when memory runs out

next(iter(DataLoader(Records(), batch_size=4, num_workers=1, multiprocessing_context="fork")))
"""
MENDED = """
from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index

next(iter(DataLoader(Records(), batch_size=4, num_workers=1, multiprocessing_context="fork")))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
