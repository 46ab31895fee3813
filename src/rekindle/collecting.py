"""Pause the search for cyclic garbage while something large and lasting is built.

Reading a file makes millions of small values that stay and form few cycles. The collector of Python looks through all
of them again and again while they grow: a third of the time of a large listing, for nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collecting"]


@contextmanager
def without_collecting() -> Iterator[None]:
    """Collect no cyclic garbage inside the block; inside another such block, or where it was off, change nothing."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
