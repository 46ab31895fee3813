"""A token or a position is not among the rows of an embedding."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, code_of, first_input, is_in, running
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-19", "index-embedding", "0.2"
TITLE = "IndexError: index out of range in self"
RAISES = ("IndexError", "RuntimeError")
NEEDLES = (
    "index out of range in self",
    "index out of range at ",
    "out of table with ",
    "srcIndex < srcSelectDimSize",
    "which is not in the valid range",
)
PATTERNS = (
    r"index out of range in self",
    r"index out of range at \S*TH/",
    r"Tried to access index (?P<value>-?\d+) out of table with \d+ rows",
    r"srcIndex < srcSelectDimSize",
    r"Index \d+ of input takes value (?P<value>-?\d+) which is not in the valid range \[0, (?P<rows>\d+)\)",
)
OLD = (
    "RuntimeError: index out of range at ../aten/src/TH/generic/THTensorEvenMoreMath.cpp:237",
    (
        "RuntimeError: index out of range: Tried to access index 30522 out of table with 30521 rows. at"
        " ../aten/src/TH/generic/THTensorEvenMoreMath.cpp:418"
    ),
)
WHY = (
    "An `Embedding` with N rows takes ids from 0 to N-1. Tokens were added to the tokenizer and not to the model, the"
    " vocabulary belongs to another model, a padding id of -1 or -100 reached the layer, or (where the embedding is the one"
    " of positions) the text is longer than the positions that the model has. On a GPU the same mistake is an assertion of"
    " a kernel, reported at a later line."
)
CHECK = "`ids.min()`, `ids.max()` and `embedding.num_embeddings`; for positions `ids.shape[1]`."

_ROWS = re.compile(r"^(\d+),|num_embeddings=(\d+)")


def explain(event: Event) -> Iterator[Cause]:
    """The embedding by name, its rows and the largest id; positions are told from tokens by the layer's name."""
    module = running(event, "Embedding", "EmbeddingBag")
    if event.frames and not is_in(event, "embedding", "embedding_bag", "torch/nn/modules/sparse.py"):
        if "index_select" in code_of(event) or "index_" in code_of(event):
            yield _selection(event)
        elif event.frames[-1].is_users:
            return
    rows_found = _ROWS.search(module.settings) if module else None
    rows = event.facts.get("rows") or (rows_found[1] or rows_found[2] if rows_found else "")
    ids = first_input(module)
    value = event.facts.get("value", "")
    low, high = (ids.low, ids.high) if ids is not None else (None, None)
    layer = called(module, "the embedding")
    what = f"an id is not among the rows of {layer}"
    if rows and high is not None and low is not None:
        wrong = low if low < 0 else high
        what = f"{layer} has {rows} rows (0 to {int(rows) - 1}) and was given {wrong:g}"
    elif rows and value:
        what = f"{layer} has {rows} rows (0 to {int(rows) - 1}) and was given {value}"
    elif rows:
        what = f"{layer} has {rows} rows (0 to {int(rows) - 1}) and was given an id beyond them"
    negative = (low is not None and low < 0) or value.startswith("-")
    positions = "pos" in module.name.lower() if module else False
    most = int(high) + 1 if high is not None and high >= 0 else 0
    tokens = (
        "model.resize_token_embeddings(len(tokenizer))   # Transformers, after tokens were added",
        f"nn.Embedding({most or 'len(vocabulary)'}, ...)   # as many rows as there are ids",
    )
    longer = (
        "tokenizer(..., truncation=True, max_length=model.config.max_position_embeddings)   # if the text is longer than the positions",
    )
    if negative:
        why = "a padding or ignored id (-1, -100) reached the layer; ids start at 0"
        fix: tuple[str, ...] = (
            "ids.masked_fill(ids < 0, padding_idx)   # a padding id that has a row, and padding_idx= of the layer",
        )
    elif positions:
        why = "this is the table of positions: the text is longer than the positions that the model has"
        fix = longer
    elif module is not None:
        why = "the vocabulary has more ids than the layer has rows: tokens were added, or it belongs to another model"
        fix = tokens
    else:
        why = "either the vocabulary has more ids than the embedding has rows, or the text is longer than the table of positions; the layer that failed decides"
        fix = ("rekindle exec train.py   # names the layer, its rows and the id", *tokens[:1], *longer)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain" if module is not None else "likely")


def _selection(event: Event) -> Cause:
    return Cause(
        CODE,
        NAME,
        what=f"an index is not among the rows that are selected from ({code_of(event)[:80]})",
        why="index_select and index_add take indices from 0 to the size of that dimension less one",
        fix=("print(index.min(), index.max(), x.shape)   # in front of the line",),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

embedding = nn.Embedding(10, 3)
embedding(torch.tensor([1, 10]))
"""
MENDED = """
import torch
from torch import nn

embedding = nn.Embedding(11, 3)
embedding(torch.tensor([1, 10]))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
