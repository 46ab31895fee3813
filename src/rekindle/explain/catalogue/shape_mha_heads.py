"""The width of an attention layer does not divide by the number of its heads, or the input has another width."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-16", "shape-mha-heads", "0.2"
TITLE = "AssertionError: embed_dim must be divisible by num_heads"
RAISES = ("AssertionError", "ValueError")
NEEDLES = (
    "was expecting embedding dimension of",
    "must be divisible by num_heads",
    "is not a multiple of the number of attention heads",
    "must be divisible by `num_heads`",
)
PATTERNS = (
    r"was expecting embedding dimension of (?P<want>\d+), but got (?P<have>\d+)",
    r"(?:embed_dim|hidden_size|d_model)`? must be divisible by `?num_heads`?(?: \(got `?embed_dim`?: (?P<width>\d+) and `?num_heads`?: (?P<heads>\d+)\))?",
    r"The hidden size \((?P<width>\d+)(?:, ?)?\) is not a multiple of the number of attention heads \((?P<heads>\d+)\)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "Each head works on an equal share of the width: `embed_dim / num_heads` features. A width that the heads do not divide"
    " has no equal shares."
)
CHECK = "`embed_dim % num_heads`."


def explain(event: Event) -> Iterator[Cause]:
    """Both numbers where they are known, the heads that divide and the nearest width."""
    if "want" in event.facts:
        want, have = event.facts["want"], event.facts["have"]
        yield Cause(
            CODE,
            NAME,
            what=f"the attention layer was made for a width of {want} and got {have}",
            why="the last dimension of query, key and value has to be its embed_dim",
            fix=(
                f"nn.MultiheadAttention(embed_dim={have}, ...)   # or d_model={have} of a Transformer layer",
                f"nn.Linear({have}, {want})   # in front of it",
            ),
            likelihood="certain",
        )
        return
    width, heads = _number(event, "width", "embed_dim"), _number(event, "heads", "num_heads")
    if not width or not heads:
        yield Cause(
            CODE,
            NAME,
            what="the width of an attention layer (embed_dim) does not divide by its number of heads",
            why="each head takes an equal share of the width",
            fix=("nn.MultiheadAttention(embed_dim=512, num_heads=8)   # for instance: 512 / 8 = 64 for each head",),
            likelihood="certain",
        )
        return
    dividing = [number for number in range(1, min(width, 64) + 1) if width % number == 0]
    near = min(dividing, key=lambda number: abs(number - heads))
    wider = (width // heads + 1) * heads
    yield Cause(
        CODE,
        NAME,
        what=f"a width of {width} does not divide by {heads} heads: {width} / {heads} = {width / heads:.4g}",
        why="each head takes an equal share of the width",
        fix=(
            f"num_heads={near}   # the nearest number that divides {width}; all of them: {', '.join(map(str, dividing))}",
            f"embed_dim={wider}   # or the next width that {heads} heads divide",
        ),
        likelihood="certain",
    )


def _number(event: Event, group: str, name: str) -> int:
    found = event.facts.get(group) or (event.live.find_plain(name, function="__init__") if event.live else None)
    return int(found) if isinstance(found, (str, int)) else 0


EXAMPLE = """
from torch import nn

nn.MultiheadAttention(embed_dim=10, num_heads=3)
"""
MENDED = """
from torch import nn

nn.MultiheadAttention(embed_dim=12, num_heads=3)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
