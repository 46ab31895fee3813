"""The ranks did not all make the same collective calls: one waits for others that never come."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._ranks import seconds_said
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-06", "ddp-barrier-mismatch", "0.2"
TITLE = "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, ...)"
RAISES = ("RuntimeError", "DistBackendError")
NEEDLES = (
    "Watchdog caught collective operation timeout",
    "for recv operation to complete",
    "for send operation to complete",
    "Detected mismatch between collectives",
    "timed out in monitoredBarrier",
    "failed to pass monitoredBarrier",
    "Some NCCL operations have failed or timed out",
)
PATTERNS = (
    r"(?:\[Rank (?P<rank>\d+)\] )?Watchdog caught collective operation timeout: Work\w*\(SeqNum=(?P<seq>\d+), OpType=(?P<op>\w+)(?:, NumelIn=(?P<numel>\d+))?[^\n]{0,200}?Timeout\(ms\)=(?P<ms>\d+)\)",
    r"(?:\[Rank (?P<rank>\d+)\] )?Watchdog caught collective operation timeout",
    r"Timed out waiting (?P<ms>\d+)ms for (?P<way>recv|send) operation to complete",
    r"Detected mismatch between collectives on ranks\. Rank (?P<rank>\d+) is running collective: CollectiveFingerPrint\((?:SequenceNumber=(?P<seq>\d+), ?)?OpType=(?P<op>\w+)[^\n]{0,400}?but Rank (?P<other>\d+) is running collective: CollectiveFingerPrint\((?:SequenceNumber=\d+, ?)?OpType=(?P<other_op>\w+)",
    r"(?:Rank (?P<other>\d+) failed to pass monitoredBarrier in (?P<ms>\d+) ?ms|[Rr]anks? (?P<missing>[\d, ]+) (?:timed out in|failed to pass) monitoredBarrier)",
    r"(?P<aborted>Some NCCL operations have failed or timed out)",
)
OLD = (
    "[E ProcessGroupNCCL.cpp:737] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=469508, OpType=ALLREDUCE, Timeout(ms)=1800000) ran for 1802212 milliseconds before timing out.",
    "[rank3]:[E1120 10:00:00.123456789 ProcessGroupNCCL.cpp:632] [Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, Timeout(ms)=600000) ran for 600060 milliseconds before timing out.",
)
WHY = (
    "A collective call (all_reduce, barrier, broadcast, the gradients of DDP) waits until every rank makes the same call, in the"
    " same order. One rank does not come: a barrier or a save inside `if rank == 0:`, an exception on it, fewer batches than"
    " the others, or an evaluation or a download there that takes longer than the timeout. Over all ranks, the one with the"
    " lowest number of the last call, or with another call at the same number, is the odd one. The ranks that report the"
    " timeout are those that waited."
)
CHECK = (
    "Per rank: the `SeqNum`, `OpType` and sizes of the line, and the last of its log before. The next run tells more with"
    " `TORCH_DISTRIBUTED_DEBUG=DETAIL` and, for NCCL, `TORCH_NCCL_TRACE_BUFFER_SIZE=2000 TORCH_NCCL_DUMP_ON_TIMEOUT=1`."
)


def explain(event: Event) -> Iterator[Cause]:
    """Who waited, for which call, how long; a mismatch that torch saw itself names both ranks."""
    facts = event.facts
    rank = facts.get("rank") or ("" if event.rank is None else str(event.rank))
    limit = seconds_said(facts.get("ms", ""))
    op = facts.get("op", "")
    call = op.lower().replace("allreduce", "all_reduce").replace("allgather", "all_gather") if op else ""
    if facts.get("other_op"):
        yield Cause(
            CODE,
            NAME,
            what=f"rank {facts['rank']} calls {op}, rank {facts['other']} calls {facts['other_op']} at the same place",
            why="all ranks have to make the same collective calls in the same order",
            fix=("look for an if of the rank around one of these calls   # and make it on all ranks",),
            likelihood="certain",
        )
        return
    late = facts.get("other") or facts.get("missing", "").strip(" ,")
    who = f"rank {rank}" if rank else "a rank"
    number = f" (call {facts['seq']})" if facts.get("seq") else ""
    guard = _guard(event)
    if late:
        what = f"rank {late} did not come to the barrier" + (f" in {limit}" if limit else "")
    else:
        what = f"{who} waited{f' {limit}' if limit else ''} in {call or _called(event) or 'a collective call'}{number} for another rank"
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="one rank does not make this call: it failed or ended (its log says so), it skips it (if rank == 0), it has fewer batches, or it works longer than the timeout"
        + (f"; the line stands under {guard}" if guard else ""),
        fix=(
            "read the logs of all ranks: the first error by time, and which rank said nothing   # that one is the cause",
            "if rank == 0: save(...)\ndist.barrier()   # the call on all ranks, outside of the if",
            "dist.init_process_group(..., timeout=timedelta(hours=2))   # if one rank really works that long",
            "TORCH_DISTRIBUTED_DEBUG=DETAIL TORCH_NCCL_TRACE_BUFFER_SIZE=2000 TORCH_NCCL_DUMP_ON_TIMEOUT=1   # for the next run",
        ),
    )


_CALLS = re.compile(
    r"\b(barrier|all_reduce|all_gather\w*|broadcast\w*|reduce\w*|gather\w*|scatter\w*|backward|monitored_barrier)\("
)
_GUARD = re.compile(r"\bif [^:]*\brank\b[^:]*:")


def _called(event: Event) -> str:
    found = _CALLS.search(event.user_frame.code) if event.user_frame else None
    return found[1] if found else ""


def _guard(event: Event) -> str:
    found = _GUARD.search(event.user_frame.code) if event.user_frame else None
    return found[0] if found else ""


_MAKE = """
import os
import time
from datetime import timedelta

import torch.distributed as dist
import torch.multiprocessing as mp

def work(rank):
    store = f"file://{os.path.abspath('store')}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=%s))
    %s
    dist.destroy_process_group()

mp.start_processes(work, nprocs=2, start_method="fork")
"""
EXAMPLE = _MAKE % (1, "dist.barrier() if rank == 0 else time.sleep(5)")
MENDED = _MAKE % (30, "dist.barrier()")
REQUIRES = ("process", "linux")
MESSAGE = ""
