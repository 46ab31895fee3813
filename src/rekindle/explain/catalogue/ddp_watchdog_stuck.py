"""NCCL's watchdog saw no progress and ended the process."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-27", "ddp-watchdog-stuck", "0.2"
TITLE = (
    "ProcessGroupNCCL's watchdog got stuck for 480 seconds without making progress in monitoring enqueued collectives."
)
RAISES = ("DistBackendError", "RuntimeError")
NEEDLES = ("watchdog got stuck for", "Heartbeat monitor timed out")
PATTERNS = (
    r"(?:Rank (?P<rank>\d+)\] )?(?:\[PG[^\]\n]{0,80}\] )?(?:ProcessGroupNCCL's )?watchdog got stuck for (?P<seconds>\d+) seconds",
    r"(?P<heart>Heartbeat monitor timed out)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "A thread of each process watches its collectives. It hung itself: a call into CUDA or NCCL does not return (a GPU or its driver that"
    " hangs, an abort that waits for a peer that is gone), or Python holds its lock for minutes in native code, as a large checkpoint's"
    " pickling does. After eight minutes the process is ended, so that the job does not wait for ever."
)
CHECK = "`dmesg | grep -i xid` on that node; `py-spy dump --pid PID` while it hangs: what holds the lock?"


def explain(event: Event) -> Iterator[Cause]:
    """Which rank, and for how long."""
    seconds = event.facts.get("seconds")
    rank = event.facts.get("rank") or ("" if event.rank is None else str(event.rank))
    yield Cause(
        CODE,
        NAME,
        what="the watchdog of NCCL made no progress"
        + (f" for {seconds} s" if seconds else "")
        + (f" on rank {rank}" if rank else "")
        + ", and the process was ended",
        why="a call into CUDA or NCCL does not return, or Python's lock is held in native code for minutes; often another rank was gone before",
        fix=(
            "read the first error of the other ranks   # if one ended before, this is what follows from it",
            "dmesg | grep -i xid   # on that node: did the GPU fail?",
            "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=1800   # if a long save or load holds Python's lock",
        ),
        likelihood="likely",
    )


EXAMPLE = ""
MENDED = ""
MESSAGE = "[rank5]:[E1120 22:17:15.000300000 ProcessGroupNCCL.cpp:1484] [PG ID 0 PG GUID 0(default_pg) Rank 5] ProcessGroupNCCL's watchdog got stuck for 480 seconds without making progress in monitoring enqueued collectives."
REQUIRES: tuple[str, ...] = ()
