"""Two ranks use the same GPU."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-13", "ddp-duplicate-gpu", "0.2"
TITLE = "DistBackendError: NCCL error ... Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
RAISES = ("DistBackendError", "RuntimeError")
NEEDLES = ("Duplicate GPU detected",)
PATTERNS = (
    r"Duplicate GPU detected ?: ?rank (?P<a>\d+) and rank (?P<b>\d+) both on CUDA device (?P<device>[0-9a-fA-F]+)",
)
OLD = (
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000",
)
WHY = (
    "NCCL wants one GPU for each rank. Without `torch.cuda.set_device(local_rank)` every process takes `cuda:0`; so does"
    " `.cuda()` without a number. More processes than GPUs end here too. The number in the message is the PCI address, not the"
    " number of the GPU."
)
CHECK = (
    "In each rank: `LOCAL_RANK`, `torch.cuda.current_device()`, `torch.cuda.device_count()`, `CUDA_VISIBLE_DEVICES`."
)


def explain(event: Event) -> Iterator[Cause]:
    """Both ranks and the PCI bus."""
    a, b = sorted((int(event.facts["a"]), int(event.facts["b"])))
    yield Cause(
        CODE,
        NAME,
        what=f"rank {a} and rank {b} use the same GPU (PCI address {event.facts['device']})",
        why="torch.cuda.set_device is missing or comes after the first use of CUDA, so that both take cuda:0; else there are more processes than GPUs",
        fix=(
            'torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))   # before the first use of CUDA, then "cuda" is the right one',
            "rekindle launch --gpus 2 train.py   # as many processes as GPUs, one each",
            "rekindle gpus   # how many there are, and who uses them",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

def work(rank):
    store = f"file://{os.path.abspath('store')}"
    dist.init_process_group("nccl", init_method=store, rank=rank, world_size=2)
    dist.all_reduce(torch.ones(1).cuda())

if __name__ == "__main__":
    mp.spawn(work, nprocs=2)
"""
MENDED = """
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

def work(rank):
    torch.cuda.set_device(rank)
    store = f"file://{os.path.abspath('store')}"
    dist.init_process_group("nccl", init_method=store, rank=rank, world_size=2)
    dist.all_reduce(torch.ones(1).cuda())

if __name__ == "__main__":
    mp.spawn(work, nprocs=2)
"""
REQUIRES = ("gpus", "process")
MESSAGE = """torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1691, invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.19.3
ncclInvalidUsage: This usually reflects invalid usage of NCCL library.
Last error:
Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000
"""
