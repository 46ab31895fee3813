"""A distributed call in a process where init_process_group has not run."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-10", "ddp-not-initialized", "0.2"
TITLE = "ValueError: Default process group has not been initialized, please make sure to call init_process_group."
RAISES = ("ValueError", "RuntimeError", "AssertionError")
NEEDLES = ("Default process group",)
PATTERNS = (r"Default process group (?:has not been|is not) initialized",)
OLD = (
    "RuntimeError: Default process group has not been initialized, please make sure to call init_process_group.",
    "AssertionError: Default process group is not initialized",
)
WHY = (
    "`torch.distributed` calls, DDP, `DistributedSampler` and `SyncBatchNorm` need the process group, which"
    " `init_process_group` makes. Often a script that is meant for several processes runs as one, without a launcher; else"
    " the call stands in front of `init_process_group`, or in a process that did not make it (a loader's worker)."
)
CHECK = "`torch.distributed.is_initialized()`; `RANK` and `WORLD_SIZE` in the environment."


def explain(event: Event) -> Iterator[Cause]:
    """Live with whether a launcher started this process."""
    code = code_of(event)
    caller = next(
        (
            word
            for word in (
                "DistributedSampler",
                "SyncBatchNorm",
                "DistributedDataParallel",
                "DDP",
                "get_rank",
                "get_world_size",
                "barrier",
                "all_reduce",
                "broadcast",
            )
            if word in code
        ),
        "",
    )
    launched = event.live is not None and "RANK" in os.environ
    alone = event.live is not None and not launched
    seen = (
        "; no launcher started this process (RANK is not set)"
        if alone
        else "; a launcher started this process (RANK is set), so the call is missing or comes too late"
        if launched
        else ""
    )
    yield Cause(
        CODE,
        NAME,
        what=f"{caller or 'a distributed call'} needs the process group, which does not exist yet",
        why=f"init_process_group did not run in this process{seen}",
        fix=(
            'dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")   # first, and start with torchrun --nproc_per_node=N train.py',
            "rank = dist.get_rank() if dist.is_initialized() else 0   # for a script that also runs as one process",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch.distributed as dist

print(dist.get_rank())
"""
MENDED = """
import torch.distributed as dist

print(dist.get_rank() if dist.is_initialized() else 0)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
