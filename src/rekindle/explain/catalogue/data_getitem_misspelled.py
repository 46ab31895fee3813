"""The data set has no `__getitem__`: misspelled, wrongly indented or missing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-10", "data-getitem-misspelled", "0.2"
TITLE = "NotImplementedError: Subclasses of Dataset should implement __getitem__."
RAISES = ("NotImplementedError", "TypeError")
NEEDLES = ("should implement __getitem__", "object is not subscriptable", "object does not support indexing")
PATTERNS = (
    r"Subclasses of Dataset should implement (?P<method>__getitem__)",
    r"'(?P<kind>[A-Z]\w*)' object (?:is not subscriptable|does not support indexing)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "A `Dataset` has to say how it gives one sample: `def __getitem__(self, index)`, with two underscores on both sides,"
    " inside the class. `__getitem`, `__get_item__` or one that is indented into `__init__` is another method. A data set"
    " that can only be read in order is an `IterableDataset` with `__iter__`."
)
CHECK = '`[name for name in dir(dataset) if "get" in name]`.'


def explain(event: Event) -> Iterator[Cause]:
    """Live with the class; `is not subscriptable` only where torch's loader asked for the sample."""
    kind = event.facts.get("kind", "") or _kind(event)
    if "method" not in event.facts or not event.facts["method"]:
        last = event.frames[-1] if event.frames else None
        if last is None or not re.search(r"torch[/\\]utils[/\\]data[/\\]", last.path):
            return
    yield Cause(
        CODE,
        NAME,
        what=f"the data set{f' ({kind})' if kind else ''} has no __getitem__",
        why="the loader asks for samples by their number; the method is misspelled (__getitem, __get_item__), indented into another one, or missing",
        fix=(
            "def __getitem__(self, index):   # two underscores on both sides, at the level of __init__",
            "class Stream(torch.utils.data.IterableDataset): def __iter__(self): ...   # if it can only be read in order",
        ),
        likelihood="certain",
    )


def _kind(event: Event) -> str:
    for frame in reversed(event.live.frames if event.live else ()):
        if frame.frame.function == "__getitem__" and "self" in frame.kinds:
            return frame.kinds["self"]
    return ""


EXAMPLE = """
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    def __len__(self):
        return 3

    def __getitem(self, index):
        return index * index

next(iter(DataLoader(Squares())))
"""
MENDED = """
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index * index

next(iter(DataLoader(Squares())))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
