"""A frozen batch norm whose running statistics go on moving."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found, listed

CODE, NAME, SINCE = "RK-PIT-13", "frozen-batchnorm-drifts", "0.2"
WHY = (
    "requires_grad=False stops gradients; running_mean and running_var move in every pass in training mode all the same"
)
DO = 'rk.freeze({model}, patterns="{layer}")    # or {path}.eval() after each {model}.train()'


def check(seen: Seen) -> Iterator[Finding]:
    """Look for norms with parameters of which none is trained, in training mode."""
    drifting = [
        layer for layer in seen.layers if layer.statistics and layer.training and layer.weights and not layer.trained
    ]
    if drifting:
        yield found(
            (CODE, NAME),
            f"{len(drifting)} frozen {'norms' if len(drifting) > 1 else 'norm'} in training mode: "
            f"{listed(layer.name for layer in drifting)}",
            why=WHY,
            do=DO.format(model=seen.model, layer=drifting[0].name, path=at(seen.model, drifting[0].name)),
            where=drifting[0].name,
        )
