"""Lengths of a packed sequence are not sorted, not positive or not on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-26", "shape-packed-lengths", "0.2"
TITLE = "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True"
RAISES = ("RuntimeError", "ValueError")
NEEDLES = (
    "array must be sorted in decreasing order",
    "Length of all samples has to be greater than 0",
    "'lengths' argument should be a 1D CPU int64 tensor",
)
PATTERNS = (
    r"array must be (?P<sorted>sorted in decreasing order)",
    r"Length of all samples has to be (?P<positive>greater than 0)",
    r"'lengths' argument should be a 1D (?P<cpu>CPU) int64 tensor, but got (?P<have>[^\n]{1,60})",
)
OLD: tuple[str, ...] = (
    "RuntimeError: 'lengths' argument should be a 1D CPU int64 tensor, but got 1D cuda:0 Long tensor",
    "RuntimeError: Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0",
)
WHY = "A packed sequence holds the batch step by step, the longest first, so that each step has the samples that still run. `enforce_sorted=False` sorts and puts the order back. A sample of length 0 has no step, and the lengths are counted on the CPU."
CHECK = "Print `lengths`."


def explain(event: Event) -> Iterator[Cause]:
    """Which of the three rules was broken."""
    facts = event.facts
    fix: tuple[str, ...]
    if facts.get("sorted", ""):
        what = "the lengths of the sequences are not in falling order"
        why = "by default the longest comes first"
        fix = (
            "pack_padded_sequence(x, lengths, enforce_sorted=False)   # sorts, and puts the order back when it is padded again",
        )
    elif facts.get("positive", ""):
        what = "a sequence of the batch has length 0"
        why = "a sample without any step cannot be packed: an empty text, or a line that lost all its words"
        fix = (
            "[sample for sample in samples if len(sample)]   # leave it out where the batch is made",
            "lengths.clamp(min=1)   # or count one step of padding",
        )
    else:
        what = f"the lengths are {facts['have']}"
        why = "they are counted on the CPU, also where the data is on a GPU"
        fix = ("pack_padded_sequence(x, lengths.cpu(), ...)",)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch
from torch.nn.utils.rnn import pack_padded_sequence

pack_padded_sequence(torch.ones(3, 5, 2), [2, 5, 3], batch_first=True)
"""
MENDED = """
import torch
from torch.nn.utils.rnn import pack_padded_sequence

pack_padded_sequence(torch.ones(3, 5, 2), [2, 5, 3], batch_first=True, enforce_sorted=False)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
