"""Gradients so large that updates destroy what was learned."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found, listed

CODE, NAME, SINCE = "RK-PIT-16", "exploding-gradients", "0.2"
WHY = "each update overshoots, the next gradient is larger still, and the loss ends as NaN"
DO = "a lower lr, or torch.nn.utils.clip_grad_norm_({model}.parameters(), 1.0) before optimizer.step()"

_LARGEST_STEP = 10.0
_LARGEST_RATIO = 1e6


def check(seen: Seen) -> Iterator[Finding]:
    """Look for infinities, for steps larger than the weights, and for growth from layer to layer."""
    broken = [name for name, gradient in seen.gradients.items() if not gradient.finite]
    if broken:
        yield _finding(seen, f"gradients are NaN or infinite: {listed(broken)}", broken[0])
        return
    for optimizer, ratio in seen.updates.items():
        if ratio > _LARGEST_STEP:
            yield _finding(seen, f"one update of {optimizer} is {ratio:,.0f} times as large as the weights", "")
            return
    sizes = matrix_sizes(seen)
    if len(sizes) >= 3:
        (first, large), (last, small) = sizes[0], sizes[-1]
        if small > 0 and large / small > _LARGEST_RATIO:
            yield _finding(seen, f"gradients grow from {small:.1e} at {last} to {large:.1e} at {first}", first)


def matrix_sizes(seen: Seen) -> list[tuple[str, float]]:
    """Return name and size of the gradients of weights with two dimensions or more, in the model's order."""
    shapes = {weight.name: weight.shape for weight in seen.weights}
    return [
        (name, gradient.size)
        for name, gradient in seen.gradients.items()
        if gradient.size and gradient.finite and len(shapes.get(name, ())) >= 2
    ]


def _finding(seen: Seen, what: str, where: str) -> Finding:
    return found((CODE, NAME), what, why=WHY, do=DO.format(model=seen.model), where=where)
