"""Another process listens on MASTER_PORT."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._ranks import is_distributed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-04", "ddp-address-in-use", "0.2"
TITLE = (
    "DistNetworkError: The server socket has failed to listen on any local network address. port: 29500 ... EADDRINUSE"
)
RAISES = ("DistNetworkError", "RuntimeError", "OSError")
NEEDLES = ("ddress already in use", "EADDRINUSE")
PATTERNS = (
    r"port: (?P<port>\d+)[^\n]{0,100}EADDRINUSE",
    r"failed to (?:bind|listen)[^\n]{0,40}\[[^\]\n]{0,40}\]:(?P<port>\d+) \(errno: 98",
    r"failed to bind to [^\s]{1,60}:(?P<port>\d+) \(errno: 98",
    r"(?P<plain>[Aa]ddress already in use)",
)
OLD = (
    "RuntimeError: Address already in use",
    "RuntimeError: The server socket has failed to listen on any local network address. The server socket has failed to bind to [::]:29500 (errno: 98 - Address already in use).",
)
WHY = (
    "Rank 0 opens a server on `MASTER_PORT`, on which the others find it. Another run on the same machine, or the remains of"
    " the last one, holds that port (29500 where nothing is said), or two processes both think that they are rank 0."
)
CHECK = '`ss -ltnp "sport = :29500"` names the process that listens; `RANK` of each process.'


def explain(event: Event) -> Iterator[Cause]:
    """The port from the message; a plain OSError only where torch was starting."""
    port = event.facts.get("port", "")
    if event.kind == "OSError" and not is_distributed(event):
        return
    shown = port or "29500"
    other = str(int(shown) + 1) if int(shown) < 65535 else "29501"
    yield Cause(
        CODE,
        NAME,
        what=f"port {port} is taken on this machine" if port else "the port of rank 0 is taken on this machine",
        why="another run, or a process that the last one left behind, listens there; else two processes think that they are rank 0"
        + ("; 29500 is what every run takes that is not told another" if shown == "29500" else ""),
        fix=(
            f'ss -ltnp "sport = :{shown}"   # which process it is; kill PID, if it is left over',
            f"torchrun --master-port {other} ...   # another port",
            "torchrun --standalone ...   # one machine: a free port by itself; rekindle launch does so too",
        ),
        likelihood="certain" if port or is_distributed(event) else "likely",
    )


EXAMPLE = """
import os
import socket

import torch.distributed as dist

other_run = socket.socket()
other_run.bind(("127.0.0.1", 0))
other_run.listen()
os.environ["MASTER_ADDR"] = "127.0.0.1"
os.environ["MASTER_PORT"] = str(other_run.getsockname()[1])
try:
    dist.init_process_group("gloo", rank=0, world_size=1)
finally:
    other_run.close()
"""
MENDED = """
import torch.distributed as dist

store = dist.TCPStore("127.0.0.1", 0, world_size=1, is_master=True)  # port 0: the system gives a free one
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
dist.destroy_process_group()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
