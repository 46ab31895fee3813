"""An array of Python objects or texts cannot become a tensor."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-09", "dtype-object-array", "0.2"
TITLE = "can't convert np.ndarray of type numpy.object_. The only supported types are: float64, float32, ..."
RAISES = ("TypeError",)
NEEDLES = ("can't convert np.ndarray of type",)
PATTERNS = (r"can't convert np\.ndarray of type (?:numpy\.)?(?P<dtype>\w+)",)
OLD = ("TypeError: can't convert np.ndarray of type numpy.object_.",)
WHY = (
    "A tensor holds numbers of one type. A NumPy array has the type `object` when its items are Python objects: rows of"
    " different length, texts, None, or the columns of a DataFrame that do not have one type (a single column of text is"
    " enough)."
)
CHECK = "`array.dtype`, `type(array.flat[0])`; `df.dtypes` for a DataFrame."


def explain(event: Event) -> Iterator[Cause]:
    """Objects, texts and dates, each with its own way out."""
    dtype = event.facts["dtype"]
    frame = any(word in code_of(event) for word in ("df", ".values", "to_numpy"))
    table = 'df[columns].astype("float32").to_numpy()   # the columns that are numbers; print(df.dtypes) shows which are not'
    ragged = "pad_sequence([torch.tensor(row) for row in rows], batch_first=True)   # rows of different length; from torch.nn.utils.rnn"
    words = "ids = [vocabulary[word] for word in words]   # texts: a number for each"
    dates = 'array.astype("int64")   # dates and times as nanoseconds; or the difference in days'
    fix: tuple[str, ...]
    if dtype in {"str_", "bytes_", "unicode_"}:
        kind, fix = "texts", (words,)
    elif dtype.startswith(("datetime", "timedelta")):
        kind, fix = "dates or times", (dates,)
    else:
        kind, fix = "Python objects", (table, ragged, words) if frame else (ragged, table, words)
    yield Cause(
        CODE,
        NAME,
        what=f"the array holds {kind} (numpy.{dtype}), and a tensor holds numbers of one type",
        why="rows of different length, texts, None, or columns of a DataFrame without one common type make an array of objects"
        if kind == "Python objects"
        else f"{kind} have to become numbers first",
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import numpy as np
import torch

rows = np.array([[1], [1, 2]], dtype=object)
torch.from_numpy(rows)
"""
MENDED = """
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

rows = np.array([[1], [1, 2]], dtype=object)
pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
