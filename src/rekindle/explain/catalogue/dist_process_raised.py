"""A process that mp.spawn started failed; its own traceback stands in the message."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-17", "dist-process-raised", "0.2"
TITLE = "torch.multiprocessing.spawn.ProcessRaisedException: -- Process 0 terminated with the following error"
RAISES = ("ProcessRaisedException", "Exception")
NEEDLES = ("terminated with the following error",)
PATTERNS = (r"-- Process (?P<number>\d+) terminated with the following error:(?P<rest>[\s\S]{0,15000})",)
OLD = (
    'Exception: \n\n-- Process 0 terminated with the following error:\nTraceback (most recent call last):\n  File "train.py", line 3, in work\n    check()\nValueError: no shard',
)
WHY = "`mp.spawn` waits for its processes and raises what the first one that failed said, with its traceback in the message. The lines above it are those of the waiting process."
CHECK = "The innermost line of your own file under `-- Process N terminated`."


def explain(event: Event) -> Iterator[Cause]:
    """Only where the inner error has no entry of its own: its type, words and place."""
    from rekindle.explain.log import is_users_path  # noqa: PLC0415 - only for text that holds frames

    rest = event.facts["rest"]
    lines = [line for line in rest.splitlines() if line.strip()]
    last = lines[-1].strip() if lines and not lines[-1].startswith(" ") else ""
    users = [found for found in _FRAME.finditer(rest) if is_users_path(found["path"])]
    place = f"{users[-1]['path']}:{users[-1]['line']}" if users else ""
    number = event.facts["number"]
    yield Cause(
        CODE,
        NAME,
        what=f"process {number} failed{f' with {last}' if last else ''}"[:300],
        why="mp.spawn ends the other processes and raises what that one said; its own traceback stands in the message",
        fix=(
            f"read {place}   # the innermost line of your own" if place else f"read the lines under Process {number}",
            f"work({number}, ...)   # the same call in this process, where a debugger can stop",
        ),
        where=place,
    )


_FRAME = re.compile(r"^ *File \"(?P<path>[^\"\n]+)\", line (?P<line>\d+)", re.MULTILINE)

_MAKE = """
import torch.multiprocessing as mp

shards = ["first", "second"]

def work(rank):
    if rank >= len(shards):
        raise LookupError(f"no shard for rank {rank}")

mp.start_processes(work, nprocs=%s, start_method="fork")
"""
EXAMPLE = _MAKE % 3
MENDED = _MAKE % 2
REQUIRES = ("linux",)
MESSAGE = ""
