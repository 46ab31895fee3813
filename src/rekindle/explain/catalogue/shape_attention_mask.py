"""A mask of attention has another shape than queries, keys and heads ask for."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-25", "shape-attention-mask", "0.2"
TITLE = "The shape of the 2D attn_mask is torch.Size([5, 5]), but should be (6, 6)."
RAISES = ("RuntimeError", "AssertionError")
NEEDLES = (
    "attn_mask is torch.Size(",
    "key_padded_mask.shape[",
    "batch number of src and tgt must be equal",
    "attn_mask is not correct",
)
PATTERNS = (
    r"The shape of the (?P<rank>[23])D attn_mask is torch\.Size\(\[(?P<have>[\d, ]+)\]\), but should be \((?P<want>[\d, ]+)\)",
    r"Expected key_padded_mask\.shape\[(?P<dim>[01])\] to be (?P<need>\d+), but got (?P<got>\d+)",
    r"the (?P<batch>batch) number of src and tgt must be equal",
    r"The size of the (?P<rank>[23])D attn_mask is not correct",
)
OLD: tuple[str, ...] = (
    "AssertionError: Expected key_padded_mask.shape[0] to be 6, but got 4",
    "RuntimeError: the batch number of src and tgt must be equal",
    "RuntimeError: The size of the 2D attn_mask is not correct.",
)
WHY = "An attention mask is `[L, S]`: one row for each query, one column for each key; with three dimensions there is one for each sample **and head**: `[N * heads, L, S]`. A padding mask is `[N, S]`. Without `batch_first=True` the input itself is `[L, N, E]`, so that batch and length change places for everything."
CHECK = "Print the shapes of query and mask, and `layer.batch_first`."


_BATCH_FIRST = (
    "batch_first=True   # in nn.Transformer..., nn.MultiheadAttention: if the input is [batch, length, width]"
)


def explain(event: Event) -> Iterator[Cause]:
    """Which mask, its shape and the one that fits; batch and length in each other's place are told apart."""
    facts = event.facts
    if facts.get("batch", ""):
        yield Cause(
            CODE,
            NAME,
            what="source and target of the transformer have different batch sizes in the dimension that counts",
            why="without batch_first=True it reads [length, batch, width], so that two lengths are compared as batches",
            fix=(_BATCH_FIRST, "print(src.shape, tgt.shape)"),
        )
        return
    if facts.get("need", ""):
        yield Cause(
            CODE,
            NAME,
            what=f"the padding mask has {facts['got']} in dimension {facts['dim']}, and the input has {facts['need']} there",
            why="the padding mask is [batch, length of the keys]; without batch_first=True the input is read as [length, batch, width]",
            fix=(
                _BATCH_FIRST,
                "print(x.shape, mask.shape)   # the mask may be of another batch, or cut to another length",
            ),
        )
        return
    have, want = numbers(facts.get("have", "")), numbers(facts.get("want", ""))
    shapes = f"the attention mask has shape {shape_text(have)} and has to have {shape_text(want)}"
    fix = ["print(query.shape, mask.shape)   # in front of the line"]
    if len(have) == len(want) == 3 and have[1:] == want[1:] and have[0] and want[0] % have[0] == 0:
        fix.insert(0, f"mask.repeat_interleave({want[0] // have[0]}, dim=0)   # one for each sample and each head")
        why = "with three dimensions there is one mask for each sample and head"
    else:
        why = "it has one row for each query and one column for each key; made for another length, or batch and length are in each other's place"
        length = want[-1] if want else "length"
        fix = [
            f"nn.Transformer.generate_square_subsequent_mask({length})   # a causal mask of this batch's length",
            _BATCH_FIRST,
        ]
    yield Cause(
        CODE,
        NAME,
        what=shapes if have else "the attention mask has another shape than queries and keys ask for",
        why=why,
        fix=tuple(fix),
        likelihood="certain" if have else "likely",
    )


EXAMPLE = """
import torch
from torch import nn

attention = nn.MultiheadAttention(16, 2, batch_first=True)
x = torch.ones(4, 6, 16)
attention(x, x, x, attn_mask=torch.zeros(5, 5))
"""
MENDED = """
import torch
from torch import nn

attention = nn.MultiheadAttention(16, 2, batch_first=True)
x = torch.ones(4, 6, 16)
attention(x, x, x, attn_mask=torch.zeros(6, 6))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
