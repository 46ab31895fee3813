"""Ray ended a worker because its node ran out of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-28", "ray-out-of-memory", "0.2"
TITLE = "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."
RAISES = ("OutOfMemoryError", "RayTaskError", "ActorDiedError", "RayActorError", "WorkerCrashedError")
NEEDLES = ("due to the node running low on memory",)
PATTERNS = (
    r"(?:Task|Actor|\d{1,6} Workers \(tasks / actors\)|Worker)[^\n]{0,80}killed due to the node running low on memory",
)
OLD: tuple[str, ...] = ()
WHY = "Ray watches the host memory of each node and ends the newest worker when a threshold (95 %) is passed, before the kernel would choose one."
CHECK = "The lines under the message: what used how much on that node. `ray memory`."
_USED = re.compile(r"memory used=([\d.]+ ?[KMGT]?B)[^\n]{0,60}was running was ([\d.]+ ?[KMGT]?B) / ([\d.]+ ?[KMGT]?B)")


def explain(event: Event) -> Iterator[Cause]:
    """How much was used, where the message says it."""
    found = _USED.search(event.message)
    used = f": it used {found[1]}, and the node {found[2]} of {found[3]}" if found else ""
    yield Cause(
        CODE,
        NAME,
        what=f"a worker was ended because its node ran out of host memory{used}",
        why="all workers of the node share its memory; loaders' workers and copies of the data set count",
        fix=(
            'ScalingConfig(resources_per_worker={"CPU": 8})   # fewer workers on a node',
            "DataLoader(..., num_workers=2)   # fewer processes that each hold a copy",
            "RAY_memory_usage_threshold=0.98   # later, at the risk that the kernel ends the node's own processes",
        ),
        likelihood="certain",
    )


EXAMPLE = ""
MENDED = ""
MESSAGE = "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.2, ID: 1) where the task (task ID: 2, name=train, pid=4711, memory used=30.00GB) was running was 60.00GB / 62.00GB (0.95), which exceeds the memory usage threshold of 0.95."
REQUIRES: tuple[str, ...] = ()
