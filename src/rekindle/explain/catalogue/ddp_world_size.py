"""Fewer processes came together than WORLD_SIZE says, or they cannot reach the first one."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-05", "ddp-world-size", "0.2"
TITLE = "DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined."
RAISES = (
    "DistStoreError",
    "DistNetworkError",
    "RuntimeError",
    "TimeoutError",
    "RendezvousTimeoutError",
    "RendezvousConnectionError",
)
NEEDLES = (
    "waiting for clients",
    "client socket has timed out",
    "client socket has failed to connect",
    "Timed out initializing process group",
    "RendezvousTimeoutError",
    "has not been able to find",
    "RendezvousConnectionError",
    "connect() timed out",
    "network addresses of (",
)
PATTERNS = (
    r"Timed out after (?P<seconds>\d+) seconds waiting for clients\. (?P<joined>\d+)/(?P<world>\d+) clients joined",
    r"client socket has timed out after (?P<ms>\d+)ms while trying to connect to \((?P<host>[^,\n]{1,200}), (?P<port>\d+)\)",
    r"client socket has failed to connect to [^\n]{0,80}\((?P<host>[^,()\n]{1,200}), (?P<port>\d+)\)",
    r"client socket has failed to connect to (?P<any>any network address)[^\n]{0,200}",
    r"Timed out initializing process group in store based barrier on rank:? (?P<rank>\d+)[^\n]{0,200}world_size=(?P<world>\d+), worker_count=(?P<joined>\d+)",
    r"^(?P<rdzv>RendezvousTimeoutError|RendezvousConnectionError)",
)
OLD = (
    "RuntimeError: Timed out initializing process group in store based barrier on rank: 0, for key: store_based_barrier_key:1 (world_size=8, worker_count=4, timeout=0:30:00)",
    "torch.distributed.DistNetworkError: The client socket has timed out after 5000ms while trying to connect to (127.0.0.1, 29151).",
)
WHY = (
    "Every process waits until as many as `WORLD_SIZE` have come to `MASTER_ADDR:MASTER_PORT`. One node did not start, two"
    " processes have the same `RANK`, a process failed before it came, or they do not reach the first one: another"
    " `MASTER_ADDR`, a name that is not known there, a firewall, an interface that does not lead there."
)
CHECK = (
    'The logs of the other nodes first: one of them may have failed on its own. Then, on each node: `env | grep -E "RANK|WORLD|MASTER"`,'
    " `getent hosts $MASTER_ADDR` and `nc -vz $MASTER_ADDR $MASTER_PORT`."
)


def explain(event: Event) -> Iterator[Cause]:
    """Too few came (seen by rank 0), or the first one could not be reached (seen by the others)."""
    facts = event.facts
    same = "torchrun --nnodes=2 --nproc_per_node=4 --rdzv-id=JOB --rdzv-backend=c10d --rdzv-endpoint=HOST0:29500 train.py   # the same command on every node"
    if facts.get("joined"):
        joined, world = int(facts["joined"]), int(facts["world"])
        if joined > world:
            what, why = (
                f"{joined} processes came, WORLD_SIZE is {world}",
                "a process came twice: started again after a failure, or two have the same RANK",
            )
        else:
            what = f"{joined} of {world} processes came together"
            why = f"{world - joined} of them never came: not started, failed before, or another MASTER_ADDR, MASTER_PORT or WORLD_SIZE"
        yield Cause(
            CODE,
            NAME,
            what=what,
            why=why,
            fix=(
                "read the logs of the other ranks and nodes first   # what failed there is the cause",
                'env | grep -E "RANK|WORLD|MASTER"   # in each: RANK is 0 to WORLD_SIZE-1, once each, the rest is equal',
                same,
            ),
        )
        return
    host, port = facts.get("host", ""), facts.get("port", "")
    unknown = "cannot be retrieved" in event.text or "Name or service not known" in event.before + event.text
    to = f"{host}:{port}" if host else "the first process"
    why = (
        f"the name {host} is not known on this machine"
        if unknown and host
        else (
            "nothing listens there: rank 0 did not start or has ended, it is another machine or port, or a firewall is between"
        )
    )
    fix = (
        [f"getent hosts {host or '$MASTER_ADDR'}   # is the name known here"]
        if host and not host.replace(".", "").isdigit()
        else []
    )
    fix += [
        f"nc -vz {host or '$MASTER_ADDR'} {port or '$MASTER_PORT'}   # from this machine, while rank 0 runs",
        "read the log of rank 0   # did it fail before the others came",
        same,
    ]
    yield Cause(
        CODE,
        NAME,
        what=f"{to} could not be reached" + (f" in {int(facts['ms']) // 1000} s" if facts.get("ms") else ""),
        why=why,
        fix=tuple(fix),
    )


EXAMPLE = """
import os
import socket
from datetime import timedelta

import torch.distributed as dist

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ["MASTER_PORT"] = str(free.getsockname()[1])
os.environ["MASTER_ADDR"] = "127.0.0.1"
dist.init_process_group("gloo", rank=0, world_size=2, timeout=timedelta(seconds=1))
"""
MENDED = """
import os
import socket
from datetime import timedelta

import torch.distributed as dist

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ["MASTER_PORT"] = str(free.getsockname()[1])
os.environ["MASTER_ADDR"] = "127.0.0.1"
dist.init_process_group("gloo", rank=0, world_size=1, timeout=timedelta(seconds=30))
dist.destroy_process_group()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
