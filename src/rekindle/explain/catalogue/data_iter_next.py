"""The iterator of a loader has no method next."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-20", "data-iter-next", "0.2"
TITLE = "AttributeError: '_MultiProcessingDataLoaderIter' object has no attribute 'next'"
RAISES = ("AttributeError",)
NEEDLES = (
    "DataLoaderIter' object has no attribute 'next'",
    "'DataLoader' object has no attribute 'next'",
    "'DataLoader' object is not an iterator",
)
PATTERNS = (r"'(?P<kind>\w*DataLoaderIter|DataLoader)' object has no attribute 'next'",)
OLD: tuple[str, ...] = ()
WHY = "`.next()` is how Python 2 asked an iterator; the loader's had it until torch 1.12. Python 3 calls the function `next`."
CHECK = "The line that calls `.next()`."


def explain(event: Event) -> Iterator[Cause]:
    """The user's own names, from the line that failed."""
    code = code_of(event)
    loop = code[: code.find(".next(")].split("=")[-1].strip() if ".next(" in code else ""
    if event.facts["kind"] == "DataLoader":
        loop = f"iter({loop or 'loader'})"
    yield Cause(
        CODE,
        NAME,
        what="the iterator of a loader has no method next",
        why="it had one until torch 1.12; the function next is the way that Python 3 has",
        fix=(f"batch = next({loop or 'iter(loader)'})",),
        likelihood="certain",
    )


EXAMPLE = """
from torch.utils.data import DataLoader

batches = iter(DataLoader([1, 2, 3]))
batch = batches.next()
"""
MENDED = """
from torch.utils.data import DataLoader

batches = iter(DataLoader([1, 2, 3]))
batch = next(batches)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
