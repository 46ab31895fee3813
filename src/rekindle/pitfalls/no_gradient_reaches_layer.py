"""Parameters that are to be trained and get no gradient."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found, listed

CODE, NAME, SINCE = "RK-PIT-14", "no-gradient-reaches-layer", "0.2"
WHY = "the layer is not used in forward, its output is detached or made in no_grad, or what comes after it is dead"
DO = "use {layer} in forward, without .detach(), .item(), .data or no_grad behind it; or {layer}.requires_grad_(False)"


def check(seen: Seen) -> Iterator[Finding]:
    """Look for parameters whose gradient was missing or 0 each time."""
    never = tuple(name for name in seen.never if not _cancels_out(name, seen))
    if never:
        first = never[0]
        yield found(
            (CODE, NAME),
            f"no gradient reaches {len(never)} trained {'parameters' if len(never) > 1 else 'parameter'}: "
            f"{listed(never)}",
            why=WHY,
            do=DO.format(layer=at(seen.model, first.rpartition(".")[0] or first)),
            where=first,
        )


def _cancels_out(name: str, seen: Seen) -> bool:
    """Whether a gradient came and was 0 in a layer that another one reached.

    A bias before the loss has one of exactly 0 where a batch holds as many of each class and the scores are still even;
    a bias of attention keys always has, as softmax does not see it.
    """
    gradient = seen.gradients.get(name)
    if gradient is None or gradient.size is None:
        return False
    layer = name.rpartition(".")[0]
    return any(
        other.rpartition(".")[0] == layer and other not in seen.never and one.size
        for other, one in seen.gradients.items()
    )
