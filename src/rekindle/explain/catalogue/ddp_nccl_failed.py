"""NCCL failed in the system, in CUDA, or because another rank went away."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-24", "ddp-nccl-failed", "0.2"
TITLE = "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3699, unhandled cuda error (run with NCCL_DEBUG=INFO for details)"
RAISES = ("DistBackendError", "RuntimeError")
NEEDLES = (
    "NCCL error in:",
    "ncclUnhandledCudaError",
    "ncclSystemError",
    "ncclInternalError",
    "ncclInvalidUsage",
    "NCCL Error ",
    "NCCL WARN ",
)
PATTERNS = (
    r"NCCL error in: ?[^\n]{0,300}?, (?P<kind>unhandled (?:cuda|system) error|internal error|invalid usage|remote process exited)[^\n]{0,200}(?:\n(?P<code>nccl\w+|UnhandledCudaError):[^\n]{0,300})?(?:\nLast error:\n(?P<last>[^\n]{1,400}))?",
    r"NCCL Error (?P<number>\d): (?P<kind>unhandled (?:cuda|system) error|internal error|invalid usage)",
    r"NCCL WARN (?P<last>Cuda failure[^\n]{1,200}|(?:[\w:]{1,40} )?[Cc]onnect to [^\n]{1,200} failed[^\n]{0,120}|Error while creating shared memory segment[^\n]{0,200}|Bootstrap : no socket interface found[^\n]{0,120}|Call to ibv_\w+ failed[^\n]{0,160}|Could not find NET with id[^\n]{0,80}|Failed to CUDA \w+[^\n]{0,120}|Mismatched[^\n]{0,160})",
)
OLD = (
    "RuntimeError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1191, unhandled system error, NCCL version 2.10.3\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.",
    "RuntimeError: NCCL Error 2: unhandled system error (run with NCCL_DEBUG=INFO for details)",
    "node0:1234:1250 [0] include/alloc.h:102 NCCL WARN Cuda failure 2 'out of memory'",
)
WHY = (
    "NCCL passes on what failed below it. `Last error` (or the first line with `NCCL WARN`, of the rank that printed it first) says what:"
    " memory of the GPU, shared memory of a container, a network interface that the nodes cannot reach, or a peer that was gone. What the"
    " other ranks print then is only that this one is missing."
)
CHECK = "`NCCL_DEBUG=WARN torchrun ...`: the first `NCCL WARN` line, and on which node."


def explain(event: Event) -> Iterator[Cause]:
    """What NCCL's last error says, as far as it says it."""
    facts = event.facts
    last = (facts.get("last") or "").strip()
    low = last.lower()
    kind = facts.get("kind") or ""
    if "duplicate gpu" in event.message.lower():
        return  # ddp-duplicate-gpu
    if "remote process exited" in event.message[:4000] or "connection closed by remote peer" in low:
        if "remote process exited" in event.message[:4000]:
            return  # ddp-peer-closed
        yield Cause(
            CODE,
            NAME,
            what=f"NCCL lost another rank: {last}"[:300],
            why="this rank is whole; the other one died or ended, and its own error stands in its own lines",
            fix=("look for the first error of the other ranks, and at the exit codes that the launcher prints",),
            likelihood="likely",
        )
        return
    debug = "NCCL_DEBUG=WARN torchrun ...   # the first NCCL WARN line tells what failed, and where"
    if "out of memory" in low or "cuda calloc" in low or "cuda malloc" in low:
        what, why = (
            "NCCL could not get memory on a GPU",
            "it takes some hundred MB for itself, outside of what PyTorch counts; PyTorch's own cache may hold it",
        )
        fix: tuple[str, ...] = (
            "nvidia-smi   # another process on that GPU, or all ranks on GPU 0?",
            "torch.cuda.set_device(local_rank)   # in front of init_process_group",
            "a smaller batch, or NCCL_BUFFSIZE=1048576   # smaller buffers",
        )
    elif "shared memory" in low or "shm" in low:
        what, why = (
            "NCCL could not make shared memory (/dev/shm is full or too small)",
            "ranks of one machine exchange data there; a container has 64 MB of it by default",
        )
        fix = (
            "docker run --shm-size=8g ...   # or --ipc=host",
            "NCCL_SHM_DISABLE=1   # goes by the network instead: slower",
        )
    elif (
        "connect to" in low or "socket interface" in low or "ibv_" in low or "no route" in low or "NET with id" in last
    ):
        what, why = (
            f"NCCL could not use the network between the nodes: {last}"[:300],
            "it chose an interface or InfiniBand device that the other nodes cannot reach",
        )
        fix = (
            "NCCL_SOCKET_IFNAME=eth0 torchrun ...   # the interface that the nodes share (ip -br addr)",
            "NCCL_IB_DISABLE=1 torchrun ...   # if InfiniBand is the trouble: TCP instead",
            debug,
        )
    elif "cuda failure" in low or "cuda" in kind:
        what, why = (
            f"CUDA failed inside NCCL{': ' + last if last else ''}"[:300],
            "a kernel failed before, the GPU is out of memory, or driver and NCCL do not go together",
        )
        fix = (
            debug,
            "CUDA_LAUNCH_BLOCKING=1 torchrun ...   # an error of your own kernels then shows at its own line",
            'nvidia-smi; python -c "import torch; print(torch.version.cuda, torch.cuda.nccl.version())"   # does the driver serve this CUDA?',
        )
    elif "invalid usage" in kind or "mismatch" in low:
        what, why = (
            f"NCCL was called in a way that it refuses{': ' + last if last else ''}"[:300],
            "mostly two ranks on one GPU, or ranks that call different collectives",
        )
        fix = ("torch.cuda.set_device(local_rank)   # in front of init_process_group", debug)
    else:
        what, why = (
            f"NCCL failed: {kind or 'a call below it'}{': ' + last if last else ''}"[:300],
            "a call below NCCL failed (network, shared memory, device), and this line does not say which",
        )
        fix = (debug, "df -h /dev/shm; ulimit -l; ip -br addr   # shared memory, memory that may be locked, interfaces")
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="likely")


EXAMPLE = """
import os

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
dist.all_reduce(torch.ones(1, device="cuda"))
"""
MENDED = """
import os

import torch
import torch.distributed as dist

torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl")
dist.all_reduce(torch.ones(1, device="cuda"))
"""
REQUIRES = ("cuda",)
MESSAGE = "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3699, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.3\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
