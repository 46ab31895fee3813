"""A rank waited for another one, which did not come to the meeting point in time."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._ranks import seconds_said
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-26", "ddp-store-timeout", "0.2"
TITLE = "torch.distributed.DistStoreError: wait timeout after 600000ms, keys: /default_pg/0//cuda//0"
RAISES = ("DistStoreError", "DistBackendError", "RuntimeError", "DistNetworkError")
NEEDLES = ("wait timeout after ", "but store->get(", "Socket Timeout")
PATTERNS = (
    r"\[(?P<rank>\d+)\] is setting up NCCL communicator and retrieving ncclUniqueId from \[(?P<other>\d+)\][^\n]{0,160}got error: (?P<error>[^\n]{1,160})",
    r"wait timeout after (?P<ms>\d+)ms, keys: (?P<keys>[^\n]{0,160})",
    r"^(?:RuntimeError: )?(?P<socket>Socket Timeout)$",
)
OLD = (
    "RuntimeError: [1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but store->get('0') got error: Socket Timeout",
    "torch.distributed.DistBackendError: [3] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but store->get('0') got error: Connection reset by peer",
)
WHY = (
    "The first collective makes a connection, for which all ranks meet at a store that rank 0 keeps. Another rank did not come: it ended (its"
    " own error is the one to read), it is still busy (rank 0 prepares data for longer than the timeout while the others wait at a barrier),"
    " or it takes another way through the code and never calls this collective."
)
CHECK = "The log of the rank that is waited for: did it end, is it still busy, or is the call inside `if rank == 0:`?"


def explain(event: Event) -> Iterator[Cause]:
    """Whom this rank waited for, and for how long."""
    facts = event.facts
    milliseconds = facts.get("ms") or next(iter(re.findall(r"after (\d+)ms", facts.get("error") or "")), "")
    waited = f" after {seconds_said(milliseconds)}" if milliseconds else ""
    other = f"rank {facts['other']}" if facts.get("other") else "another rank"
    reset = "reset by peer" in (facts.get("error") or "")
    yield Cause(
        CODE,
        NAME,
        what=f"{other} was gone when this rank came to meet it"
        if reset
        else f"{other} did not come to the meeting point{waited}",
        why="it ended, and its own error is the one to read"
        if reset
        else "it ended, is still busy, or never makes this call; this rank is whole",
        fix=(
            f"read the lines of {other} in the log   # its own error, or what it is busy with",
            'dist.init_process_group("nccl", timeout=datetime.timedelta(hours=2))   # if rank 0 prepares data for that long',
            "every rank makes the same calls in the same order   # no collective inside of if rank == 0:",
        ),
        likelihood="likely",
    )


EXAMPLE = """
import datetime

import torch.distributed as dist

store = dist.TCPStore("127.0.0.1", 0, is_master=True)
store.wait(["rank 1 is there"], datetime.timedelta(milliseconds=100))
"""
MENDED = """
import datetime

import torch.distributed as dist

store = dist.TCPStore("127.0.0.1", 0, is_master=True)
store.set("rank 1 is there", "yes")
store.wait(["rank 1 is there"], datetime.timedelta(milliseconds=100))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
