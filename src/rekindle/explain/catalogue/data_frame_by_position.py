"""A data set reads a pandas table by label where it means the position."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-31", "data-frame-by-position", "0.2"
TITLE = "KeyError: 42 (a data set over a pandas Series or DataFrame)"
RAISES = ("KeyError",)
NEEDLES = ("KeyError: ",)
PATTERNS = (r"^KeyError: (?P<key>-?\d+)$",)
OLD: tuple[str, ...] = ()
WHY = "`series[i]` of pandas looks for the label `i`, not for the i-th row. After a split, a filter or a shuffle the labels have gaps, so the same code works on the whole table and fails on a part of it. A loader gives positions from 0 to `len - 1`."
CHECK = "`table.index[:5]` in front of the loader."


def explain(event: Event) -> Iterator[Cause]:
    """Only where both pandas and a loader (or a data set's __getitem__) are among the calls."""
    if not is_in(event, "pandas/") or not is_in(event, "torch/utils/data/", "__getitem__"):
        return
    code = code_of(event)
    found = re.search(r"([\w.]{1,60})\[\s*(\w+)\s*\]", code)
    owner, index = (found[1], found[2]) if found else ("self.labels", "index")
    yield Cause(
        CODE,
        NAME,
        what=f"the table has no row with the label {event.facts['key']}",
        why="the loader asks for positions, and [ ] of pandas looks for labels; after a split or filter they differ",
        fix=(
            f"{owner}.iloc[{index}]   # by position",
            f"{owner.removeprefix('self.')} = {owner.removeprefix('self.')}.reset_index(drop=True)   # or once, when the data set is made",
        ),
        likelihood="certain" if is_in(event, "torch/utils/data/") else "likely",
    )


EXAMPLE = """
import pandas
from torch.utils.data import DataLoader, Dataset

class Table(Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.labels[index]

labels = pandas.Series([3, 1, 4, 1, 5])
for batch in DataLoader(Table(labels[labels > 1])):
    pass
"""
MENDED = """
import pandas
from torch.utils.data import DataLoader, Dataset

class Table(Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.labels.iloc[index]

labels = pandas.Series([3, 1, 4, 1, 5])
for batch in DataLoader(Table(labels[labels > 1])):
    pass
"""
REQUIRES = ("pandas",)
MESSAGE = """Traceback (most recent call last):
  File "train.py", line 15, in <module>
    for batch in DataLoader(Table(labels[labels > 1])):
  File "/opt/venv/lib/python3.11/site-packages/torch/utils/data/dataloader.py", line 733, in __next__
    data = self._next_data()
  File "/opt/venv/lib/python3.11/site-packages/torch/utils/data/_utils/fetch.py", line 52, in fetch
    data = [self.dataset[idx] for idx in possibly_batched_index]
  File "train.py", line 12, in __getitem__
    return self.labels[index]
  File "/opt/venv/lib/python3.11/site-packages/pandas/core/series.py", line 1130, in __getitem__
    return self._get_value(key)
  File "/opt/venv/lib/python3.11/site-packages/pandas/core/indexes/base.py", line 3819, in get_loc
    raise KeyError(key) from err
KeyError: 1"""
