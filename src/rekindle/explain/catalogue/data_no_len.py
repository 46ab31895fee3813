"""The data set does not say how many samples it has."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-11", "data-no-len", "0.2"
TITLE = "TypeError: object of type 'MyDataset' has no len()"
RAISES = ("TypeError",)
NEEDLES = ("has no len()",)
PATTERNS = (r"object of type '(?P<kind>[\w.]+)' has no len\(\)",)
OLD: tuple[str, ...] = ()
WHY = (
    "Samplers draw from `range(len(dataset))`, so the data set needs `__len__`. `object of type 'type' has no len()` means"
    " that the class was passed, not an instance of it. A stream has no length: make it an `IterableDataset`, without"
    " `shuffle` and without a sampler."
)
CHECK = "`type(dataset)`; has its class a method `__len__`?"


def explain(event: Event) -> Iterator[Cause]:
    """Only where torch's loader or sampler asked for the length."""
    if not is_in(event, "torch/utils/data/"):
        return
    kind = event.facts["kind"]
    if is_in(event, "torch/utils/data/_utils/"):
        return  # a part of a sample: data-collate-type
    if kind in {"type", "ABCMeta", "_DataPipeType"}:
        yield Cause(
            CODE,
            NAME,
            what="the class of the data set was passed, not an instance of it",
            why="a class has no length and no samples; it has to be called first",
            fix=("DataLoader(MyDataset(...), batch_size=32)   # with its parentheses",),
            likelihood="certain",
        )
        return
    plain = {"generator", "map", "filter", "zip"}
    yield Cause(
        CODE,
        NAME,
        what=f"the data set ({kind}) has no __len__" if kind not in plain else f"a {kind} was passed as the data set",
        why="the sampler draws from the numbers 0 to len(dataset) - 1",
        fix=(
            "def __len__(self): return len(self.items)   # in the class, at the level of __init__",
            "class Stream(torch.utils.data.IterableDataset): ...   # if it has no length; then without shuffle and sampler",
        )
        if kind not in plain
        else ("list(...)   # of it, if it fits into memory; else an IterableDataset",),
        likelihood="certain",
    )


EXAMPLE = """
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    def __getitem__(self, index):
        return index * index

DataLoader(Squares(), shuffle=True)
"""
MENDED = """
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index * index

DataLoader(Squares(), shuffle=True)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
