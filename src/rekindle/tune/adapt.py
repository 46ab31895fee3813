"""Values of another shape made to fit: rows that exist, channels added up, position embeddings of another length.

Each only where the user wished it; without the wish, the words say which one would help.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Adaptation", "Wishes", "adaptation"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What may be done to values of another shape.

    Attributes:
        rows: load the rows that both have.
        classes: (names of the model's rows, names of the source's), or None for rows by place.
        channels: add up or spread the input channels of a convolution.
        positions: interpolate position embeddings.
    """

    rows: bool = False
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    channels: bool = False
    positions: bool = False


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A change of values, or the words that say which wish would allow one.

    Attributes:
        words: what is done, or what to ask for.
        make: (values of the source, present values of the model) -> values of the model's shape; None without the wish.
    """

    words: str
    make: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None


def adaptation(key: str, here: Shape, there: Shape, wishes: Wishes) -> Adaptation | None:
    """Return how values of one shape can become those of another; None where nothing is known.

    Args:
        key: of the model; tells position embeddings.
        here: the model's shape.
        there: the source's.
        wishes: what may be done.
    """
    if _are_positions(key, here, there):
        words = f"positions interpolated from {there[-2]} to {here[-2]}"
        if not wishes.positions:
            return Adaptation("resize_positions=True interpolates them")
        return Adaptation(words, lambda value, live: _positions(value, live.shape))
    if len(here) == 4 and len(there) == 4 and (here[0], *here[2:]) == (there[0], *there[2:]):
        if there[1] == 3 and here[1] == 1:
            if not wishes.channels:
                return Adaptation("adapt_channels=True adds up the three colours")
            return Adaptation("3 input channels added up", lambda value, _: value.sum(1, keepdim=True))
        if there[1] == 1 and here[1] == 3:
            if not wishes.channels:
                return Adaptation("adapt_channels=True spreads the one channel over three")
            return Adaptation("1 input channel spread over 3", lambda value, _: value.expand(-1, 3, -1, -1) / 3)
    if here and there and here[1:] == there[1:] and (here[0] != there[0] or wishes.classes is not None):
        return _rows(here[0], there[0], wishes)
    return None


def _rows(here: int, there: int, wishes: Wishes) -> Adaptation:
    if not wishes.rows:
        return Adaptation("partial_rows=True takes the rows that both have")
    if wishes.classes is None:
        count = min(here, there)
        return Adaptation(
            f"{count:,} of {here:,} rows from {there:,}",
            lambda value, live: torch.cat([value[:count].to(live), live[count:]]),
        )
    mine, theirs = wishes.classes
    if (len(mine), len(theirs)) != (here, there):
        return Adaptation(f"classes= names {len(mine)} and {len(theirs)} rows, these are {here} and {there}")
    places = {name: index for index, name in enumerate(theirs)}
    pairs = [(index, places[name]) for index, name in enumerate(mine) if name in places]
    if not pairs:
        return Adaptation("classes= have no name in common")

    def by_name(value: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        made = live.clone()
        made[[mine_row for mine_row, _ in pairs]] = value[[their_row for _, their_row in pairs]].to(live)
        return made

    return Adaptation(f"{len(pairs):,} of {here:,} rows by class name", by_name)


def _are_positions(key: str, here: Shape, there: Shape) -> bool:
    name = key.lower()
    return (
        len(here) == len(there)
        and len(here) in {2, 3}
        and here[-1] == there[-1]
        and here[:-2] == there[:-2]
        and "pos" in name
        and ("embed" in name or "emb" in name or "enc" in name)
    )


def _positions(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Interpolate embeddings (..., N, D) to another N.

    Where both lengths are a square after the same number (0, 1 or 2) of tokens in front, they are a grid of patches and
    interpolated in two dimensions (bicubic); else along one (linear). The tokens in front stay.
    """
    have, want, width = value.shape[-2], shape[-2], shape[-1]
    flat = value.reshape(have, width).float()
    for front in (1, 0, 2):
        old, new = math.isqrt(max(0, have - front)), math.isqrt(max(0, want - front))
        if old and new and old * old == have - front and new * new == want - front:
            grid = flat[front:].reshape(1, old, old, width).permute(0, 3, 1, 2)
            sized = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
            rows = sized.permute(0, 2, 3, 1).reshape(new * new, width)
            return torch.cat([flat[:front], rows]).reshape(shape).to(value.dtype)
    line = torch.nn.functional.interpolate(flat.T[None], want, mode="linear", align_corners=False)
    return line[0].T.reshape(shape).to(value.dtype)
