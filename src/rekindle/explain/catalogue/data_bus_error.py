"""Shared memory is full: the workers of a DataLoader hand batches over in /dev/shm."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._host import shared_memory, shared_said
from rekindle.explain.catalogue._loaders import loader_call
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-07", "data-bus-error", "0.2"
TITLE = "RuntimeError: DataLoader worker (pid 26664) is killed by signal: Bus error"
RAISES = ("RuntimeError", "OSError")
NEEDLES = (
    "killed by signal: Bus error",
    "insufficient shared memory (shm)",
    "unable to write to file </torch_",
    "unable to allocate shared memory(shm)",
    "unable to open shared memory object </torch_",
)
PATTERNS = (
    r"DataLoader worker \(pid (?P<pid>\d+)\) is killed by signal: Bus error",
    r"(?P<bus>Unexpected bus error encountered in worker)",
    r"unable to write to file </torch_[\w]*>(?:: (?P<reason>[\w ]+))?",
    r"unable to allocate shared memory\(shm\) for file </torch_[\w]*>(?:: (?P<reason>[\w ]+))?",
    r"unable to open shared memory object </torch_[\w]*> in read-write mode(?:: (?P<reason>[\w ]+))?",
)
OLD = (
    "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
    "RuntimeError: unable to write to file </torch_18692_1954506624>",
    "RuntimeError: unable to open shared memory object </torch_4711_17> in read-write mode",
)
WHY = (
    "Workers put each batch into shared memory (`/dev/shm`) and send the main process a handle. A container has 64 MB of it"
    " unless it is told otherwise; when it is full, writing is a bus error (SIGBUS). It needs about"
    " `num_workers * prefetch_factor` batches."
)
CHECK = "`df -h /dev/shm` in the container, while it runs."


def explain(event: Event) -> Iterator[Cause]:
    """Live with the size of this machine's shared memory."""
    who = (
        f"worker process {event.facts['pid']} of the loader"
        if event.facts.get("pid")
        else "a worker process of the loader"
    )
    if "Too many open files" in event.facts.get("reason", ""):
        return  # data-too-many-files
    size = shared_memory() if event.live else None
    call = loader_call(event)
    workers = call.get("num_workers", "")
    seen = shared_said(size)
    small = size is not None and size[0] <= 1 << 30
    flight = f"; {workers} workers keep {call.get('prefetch_factor', '2')} batches each there" if workers else ""
    if size is not None and not small and size[1] > size[0] // 2:
        seen += ", which is much; the batches in flight have to be larger than that, or it was full at that moment"
    yield Cause(
        CODE,
        NAME,
        what=f"{who} found the shared memory full (bus error)",
        why="workers hand batches over in /dev/shm, which in a container has 64 MB by default"
        + (f"; here {seen}" if seen else "")
        + flight,
        fix=(
            "docker run --shm-size=8g ...   # or --ipc=host; Kubernetes: an emptyDir with medium: Memory mounted on /dev/shm",
            'torch.multiprocessing.set_sharing_strategy("file_system")   # without the right to change the container',
            "DataLoader(..., num_workers=0)   # or fewer workers, a smaller batch",
        ),
        likelihood="certain" if small or size is None else "likely",
    )


EXAMPLE = """
import os
import signal

from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGBUS)  # what writing into full shared memory ends in

next(iter(DataLoader(Records(), batch_size=4, num_workers=1, multiprocessing_context="fork")))
"""
MENDED = """
from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index

next(iter(DataLoader(Records(), batch_size=4, num_workers=0)))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
