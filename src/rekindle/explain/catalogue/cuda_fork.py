"""A forked process uses CUDA after its parent did."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-17", "cuda-fork", "0.2"
TITLE = "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start method"
RAISES = ("RuntimeError",)
NEEDLES = ("in forked subprocess",)
PATTERNS = (r"Cannot re-initialize (?P<kind>\w+) in forked subprocess",)
OLD = (
    "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start method",
)
WHY = (
    "On Linux the workers of a DataLoader are forks of the main process, and CUDA does not survive a fork. A dataset or a collate"
    ' function that moves tensors to the GPU, runs a model there, or makes tensors under `torch.set_default_device("cuda")`'
    " therefore fails with `num_workers` above 0."
)
CHECK = "The last line of your own in the traceback: it touches CUDA in `__getitem__`, `collate_fn` or the target of a process."


def explain(event: Event) -> Iterator[Cause]:
    """In a DataLoader's worker, or a process of the user's own."""
    code = code_of(event)
    function = event.user_frame.function if event.user_frame else ""
    in_worker = (
        "DataLoader worker" in event.outer
        or is_in(event, "_worker_loop", "torch/utils/data/_utils/worker.py")
        or function in {"__getitem__", "collate_fn"}
    )
    where = f" in {function}" if function and function != "<module>" else ""
    said = f" ({code})" if code else ""
    keep = "batch = batch.to(device)   # in the training loop; the dataset and the collate function stay on the CPU"
    spawn = 'torch.multiprocessing.set_start_method("spawn")   # first thing under if __name__ == "__main__":'
    yield Cause(
        CODE,
        NAME,
        what=f"a worker of the DataLoader uses CUDA{where}{said}"
        if in_worker
        else f"a forked process uses CUDA{where}{said}",
        why="the worker is a fork of a process that uses CUDA already, and CUDA does not survive a fork",
        fix=(
            keep,
            'DataLoader(..., multiprocessing_context="spawn")   # slower to start; or num_workers=0',
        )
        if in_worker
        else (spawn, keep),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.utils.data import DataLoader, Dataset

class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(3, device="cuda")

torch.ones(1, device="cuda")
for batch in DataLoader(Images(), num_workers=1):
    pass
"""
MENDED = """
import torch
from torch.utils.data import DataLoader, Dataset

class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(3)

torch.ones(1, device="cuda")
for batch in DataLoader(Images(), num_workers=1):
    batch = batch.to("cuda")
"""
REQUIRES = ("cuda", "process")
MESSAGE = """Traceback (most recent call last):
  File "train.py", line 12, in <module>
    for batch in DataLoader(Images(), num_workers=1):
  File "/usr/lib/python3/site-packages/torch/_utils.py", line 775, in reraise
    raise exception
RuntimeError: Caught RuntimeError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/usr/lib/python3/site-packages/torch/utils/data/_utils/fetch.py", line 54, in fetch
    data = [self.dataset[idx] for idx in possibly_batched_index]
  File "train.py", line 9, in __getitem__
    return torch.ones(3, device="cuda")
  File "/usr/lib/python3/site-packages/torch/cuda/__init__.py", line 412, in _lazy_init
    raise RuntimeError(
RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start method
"""
