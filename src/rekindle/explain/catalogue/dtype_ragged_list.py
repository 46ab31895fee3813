"""The lists inside a list have different lengths."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-10", "dtype-ragged-list", "0.2"
TITLE = "ValueError: expected sequence of length 3 at dim 1 (got 2)"
RAISES = ("ValueError", "TypeError")
NEEDLES = ("expected sequence of length", "not a sequence")
PATTERNS = (
    r"expected sequence of length (?P<want>\d+) at dim (?P<dim>\d+) \(got (?P<have>\d+)\)",
    r"^TypeError: (?P<mixed>not a sequence)$",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`torch.tensor` makes a tensor of lists in lists, and a tensor is rectangular: every row needs the same length. Texts"
    " that were turned into ids have different lengths until they are padded."
)
CHECK = "`{len(row) for row in rows}`."


def explain(event: Event) -> Iterator[Cause]:
    """Both lengths and the level of nesting they are at."""
    facts = event.facts
    pad = "pad_sequence([torch.tensor(row) for row in rows], batch_first=True)   # from torch.nn.utils.rnn"
    tokenizer = (
        "tokenizer(texts, padding=True, truncation=True, return_tensors='pt')   # if these are ids of a tokenizer"
    )
    if "mixed" in facts:
        if "ensor(" not in code_of(event) or not event.frames[-1].is_users:
            return  # not said by torch.tensor
        what, why = "numbers and lists stand side by side in one list", "a tensor needs lists of the same depth"
    else:
        what = f"the first list has {facts['want']} items and another one {facts['have']} (level {facts['dim']} of nesting)"
        why = "a tensor is rectangular: all lists at one level need the same length"
    yield Cause(CODE, NAME, what=what, why=why, fix=(pad, tokenizer), likelihood="certain")


EXAMPLE = """
import torch

torch.tensor([[1, 2, 3], [1, 2]])
"""
MENDED = """
import torch
from torch.nn.utils.rnn import pad_sequence

pad_sequence([torch.tensor(row) for row in [[1, 2, 3], [1, 2]]], batch_first=True)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
