"""The process may not open more files: every tensor from a worker needs one."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._host import open_files
from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-18", "data-too-many-files", "0.2"
TITLE = "RuntimeError: Too many open files. Communication with the workers is no longer possible"
RAISES = ("RuntimeError", "OSError")
NEEDLES = ("Too many open files", "items of ancdata", "ancdata")
PATTERNS = (
    r"Too many open files\. Communication with the workers",
    r"received (?P<items>\d+) items of ancdata",
    r"unable to (?:open|resize|mmap)[^\n]{0,200}</?torch_\w+>[^\n]{0,200}Too many open files",
    r"\[Errno 24\] Too many open files(?:: '(?P<path>[^'\n]*)')?",
)
OLD = (
    "RuntimeError: received 0 items of ancdata",
    "RuntimeError: unable to open shared memory object </torch_4711_17> in read-write mode: Too many open files (24)",
)
WHY = (
    "With the sharing strategy `file_descriptor` (the default on Linux) every tensor that comes from a worker holds an open"
    " file as long as it lives. Batches that are kept in a list, large prefetching, or a small limit (1024 is usual) end here."
)
CHECK = "`ulimit -n`; `ls /proc/PID/fd | wc -l` while it runs; lists that keep batches."


def explain(event: Event) -> Iterator[Cause]:
    """Live with the limit and how many files are open; a plain OSError only where a loader runs."""
    if event.kind == "OSError" and not is_in(event, "torch/utils/data/", "torch/multiprocessing/"):
        return
    files = open_files() if event.live else None
    seen = f"; this process may open {files[0]} and has {files[1]} open" if files else ""
    yield Cause(
        CODE,
        NAME,
        what="there are too many open files to take more tensors from the workers",
        why=f"each tensor that a worker sends holds an open file as long as it lives{seen}",
        fix=(
            'torch.multiprocessing.set_sharing_strategy("file_system")   # at the beginning of the program: names in place of open files',
            "ulimit -n 65535   # in the shell, before python",
            "kept.append(batch.clone())   # what is kept of a batch, copied: the copy holds no file",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import resource

import torch
from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 400

    def __getitem__(self, index):
        return torch.ones(2)

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))  # a small limit shows it early
kept = [batch for batch in DataLoader(Records(), batch_size=1, num_workers=1, multiprocessing_context="fork")]
"""
MENDED = """
import resource

import torch
from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 200

    def __getitem__(self, index):
        return torch.ones(2)

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
loader = DataLoader(Records(), batch_size=1, num_workers=1, multiprocessing_context="fork")
kept = [batch.clone() for batch in loader]
"""
REQUIRES = ("process",)
MESSAGE = ""
