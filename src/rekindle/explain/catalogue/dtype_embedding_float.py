"""The ids that an embedding was given are no whole numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, first_input, is_in, running
from rekindle.explain.catalogue._words import dtype_name, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-05", "dtype-embedding-float", "0.2"
TITLE = "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got torch.FloatTensor instead"
RAISES = ("RuntimeError",)
NEEDLES = ("'indices' to have ", "argument #3 'index'", "argument #1 'indices'")
PATTERNS = (
    r"argument #1 'indices' to have (?:one of the following scalar types: Long, Int|scalar type Long); but got (?P<found>[\w.]+) instead",
    r"Expected object of scalar type Long but got scalar type (?P<found>\w+) for argument #(?P<number>\d+) '(?:index|indices)'",
)
OLD = (
    (
        "RuntimeError: Expected tensor for argument #1 'indices' to have scalar type Long; but got torch.cuda.FloatTensor instead"
        " (while checking arguments for embedding)"
    ),
    (
        "RuntimeError: Expected object of scalar type Long but got scalar type Float for argument #3 'index' in call to"
        " _th_index_select"
    ),
)
WHY = (
    "An embedding looks up rows by their number. Ids become floats when padding is made with `torch.zeros`, when a DataFrame"
    " with missing values is read (they make the whole column float), or when numbers went through NumPy as floats."
)
CHECK = "`ids.dtype`, and where padding is made."


def explain(event: Event) -> Iterator[Cause]:
    """The layer, the dtype and the shape of the ids; from an old message alone it is one of two causes."""
    facts = defaultdict(str, event.facts)
    found = dtype_name(facts["found"])
    module = running(event, "Embedding", "EmbeddingBag")
    ids = first_input(module)
    general = bool(facts["number"])
    if general and event.frames and not is_in(event, "embedding"):
        return  # dtype-scatter-index
    shape = f" {shape_text(ids.shape)}" if ids is not None else ""
    features = found.startswith("float") and ids is not None and ids.low is not None and ids.low % 1 != 0
    fix = [
        "ids.long()   # if they are whole numbers already",
        "torch.zeros(..., dtype=torch.long)   # where padding is made",
    ]
    if features:
        fix.insert(0, "nn.Linear(...)   # these have decimals: measured values, no ids")
    yield Cause(
        CODE,
        NAME,
        what=f"{called(module, 'an embedding')} was given ids{shape} of {found}, and rows are counted in int64",
        why="padding made with torch.zeros, or a column with missing values, turns ids into floats"
        if found.startswith("float")
        else f"{found} is too short for ids; torch takes int64 and int32",
        fix=tuple(fix),
        likelihood="possible" if general and not event.frames else "certain",
    )


EXAMPLE = """
import torch
from torch import nn

ids = torch.zeros(4)  # float32, as torch.zeros makes it
nn.Embedding(10, 3)(ids)
"""
MENDED = """
import torch
from torch import nn

ids = torch.zeros(4, dtype=torch.long)
nn.Embedding(10, 3)(ids)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
