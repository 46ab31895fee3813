"""A process that may have no children starts a loader with workers."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-33", "data-daemonic", "0.2"
TITLE = "AssertionError: daemonic processes are not allowed to have children"
RAISES = ("AssertionError",)
NEEDLES = ("daemonic processes are not allowed to have children",)
PATTERNS = (r"daemonic processes are not allowed to have children",)
OLD: tuple[str, ...] = ()
WHY = "Processes of a `multiprocessing.Pool`, and workers of a `DataLoader`, are daemons: they end with their parent and may start none. A loader with workers inside of one (a search over settings in a pool, a data set with a loader of its own) is refused."
CHECK = "What starts the process in which the loader is made?"


def explain(event: Event) -> Iterator[Cause]:
    """Said where a loader is among the calls; otherwise only likely."""
    loader = is_in(event, "torch/utils/data/dataloader.py")
    yield Cause(
        CODE,
        NAME,
        what="a process of a pool (or a loader's worker) starts processes of its own"
        if not loader
        else "a DataLoader with workers is made inside a process of a pool",
        why="such processes are daemons and may have no children",
        fix=(
            "DataLoader(..., num_workers=0)   # inside the pool",
            "concurrent.futures.ProcessPoolExecutor(n)   # in place of multiprocessing.Pool: its processes may have children",
        ),
        likelihood="certain" if loader else "likely",
    )


EXAMPLE = """
import multiprocessing
from torch.utils.data import DataLoader

def evaluate(setting):
    return [int(batch) for batch in DataLoader([1, 2], num_workers=1)]

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.map(evaluate, [0])
"""
MENDED = """
from torch.utils.data import DataLoader

def evaluate(setting):
    return [int(batch) for batch in DataLoader([1, 2], num_workers=0)]

evaluate(0)
"""
REQUIRES = ("linux",)
MESSAGE = ""
