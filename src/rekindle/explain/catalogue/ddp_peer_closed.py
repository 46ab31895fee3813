"""A consequence: another rank ended, and the connection to it with it."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-15", "ddp-peer-closed", "0.2"
TITLE = "RuntimeError: [.../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:6019"
RAISES = ("RuntimeError", "DistBackendError", "DistNetworkError")
NEEDLES = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited or there was a network error",
    "failed on SocketImpl",
    "NCCL communicator was aborted",
)
PATTERNS = (
    r"Connection closed by peer \[(?P<host>[^\]\n]{1,100})\]:(?P<port>\d+)",
    r"(?:Read|Write) error \[(?P<host>[^\]\n]{1,100})\]:(?P<port>\d+): (?:Connection reset by peer|Broken pipe)",
    r"(?P<nccl>remote process exited or there was a network error)",
    r"(?P<store>(?:recvValue|sendBytes|recvBytes|recvVector) failed on SocketImpl)",
    r"(?P<aborted>NCCL communicator was aborted)",
    r"(?P<plain>Connection (?:closed|reset) by peer)[^\n]{0,80}(?:remote worker|NCCL|gloo)",
)
OLD = (
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:6019",
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:12183: Connection reset by peer.",
    "torch.distributed.DistBackendError: NCCL communicator was aborted on rank 1.",
)
WHY = "This rank is whole; another one died or ended while this one waited for it. Its own error, in its own lines of the log, is the one to read. Where it says nothing, it was killed: look for its exit code in what the launcher says at the end."
CHECK = "The first failure by time over all ranks; the exit codes under `Root Cause (first observed failure)`."


def explain(event: Event) -> Iterator[Cause]:
    """Never a cause of its own: it says where to look."""
    host, port = event.facts.get("host", ""), event.facts.get("port", "")
    far = f" at {host}" if host and host not in {"127.0.0.1", "::1"} else f" (port {port})" if port else ""
    yield Cause(
        CODE,
        NAME,
        what=f"another rank{far} ended while {f'rank {event.rank}' if event.rank is not None else 'this one'} waited for it",
        why="a consequence, not the cause: the rank that ended first has its own error, or was killed without one",
        fix=(
            "read the lines of the rank that ended first   # rekindle explain on the whole log finds it",
            "torchrun --log-dir logs --tee 3 ...   # a file for each rank, next time",
            "rekindle launch --procs 2 train.py   # says which rank failed first, and with what",
        ),
        likelihood="possible",
    )


_MAKE = """
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

def work(rank):
    store = f"file://{os.path.abspath('store')}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    dist.all_reduce(torch.ones(2))
    %s
    dist.all_reduce(torch.ones(2))
    dist.destroy_process_group()

mp.start_processes(work, nprocs=2, start_method="fork")
"""
EXAMPLE = _MAKE % "os._exit(0) if rank == 1 else None"
MENDED = _MAKE % ""
REQUIRES = ("process", "linux")
MESSAGE = ""
