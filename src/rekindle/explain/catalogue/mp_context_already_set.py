"""The start method of processes was already chosen."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-18", "mp-context-already-set", "0.2"
TITLE = "RuntimeError: context has already been set"
RAISES = ("RuntimeError",)
NEEDLES = ("context has already been set",)
PATTERNS = (r"^RuntimeError: context has already been set", r"^context has already been set")
OLD: tuple[str, ...] = ()
WHY = "The start method (`fork`, `spawn`, `forkserver`) is chosen once in a process. `set_start_method` ran twice (also because the script was imported again), or a lock, queue or loader that was made before chose the default."
CHECK = "All places that call `set_start_method`; locks and queues made while modules are imported."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - the message has no facts
    """Three ways out."""
    yield Cause(
        CODE,
        NAME,
        what="the start method of processes was already chosen, and can be chosen once only",
        why="set_start_method ran before, or a lock, a queue or a loader with workers chose the default",
        fix=(
            'if __name__ == "__main__": mp.set_start_method("spawn")   # once, as the first line there',
            'context = mp.get_context("spawn"); context.Process(...)   # a method of its own for these processes',
            'DataLoader(..., multiprocessing_context="spawn")   # for the workers of a loader',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import multiprocessing as mp

mp.set_start_method("spawn")
mp.set_start_method("fork")
"""
MENDED = """
import multiprocessing as mp

mp.set_start_method("spawn")
mp.get_context("fork")
"""
REQUIRES = ("process",)
MESSAGE = ""
