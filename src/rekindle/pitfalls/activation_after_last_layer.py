"""An activation after the last layer cuts off scores that the loss needs."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Call, Loss, Seen, at, found

CODE, NAME, SINCE = "RK-PIT-01", "activation-after-last-layer", "0.2"
WHY = "the loss wants scores of any size and sign; {activation} cuts them, and where it cuts, no gradient passes"
DO = "end the model with {last} itself, and apply {activation} only to what is predicted"

_LOGITS = {"cross entropy", "BCEWithLogitsLoss"}
_DISTANCES = {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"}
# operation -> what to call it, and the range that it cannot leave
_ACTIVATIONS = {
    "Relu": ("ReLU", 0.0, float("inf")),
    "Hardtanh": ("ReLU6 or Hardtanh", -1.0, 6.0),
    "Gelu": ("GELU", -0.2, float("inf")),
    "Silu": ("SiLU", -0.3, float("inf")),
    "Softplus": ("Softplus", 0.0, float("inf")),
    "Sigmoid": ("Sigmoid", 0.0, 1.0),
    "Tanh": ("Tanh", -1.0, 1.0),
}


def check(seen: Seen) -> Iterator[Finding]:
    """Look at the operation between the last layer and the loss."""
    for loss in seen.losses:
        if len(loss.before) < 2 or loss.before[0] not in _ACTIVATIONS:
            continue
        activation, low, high = _ACTIVATIONS[loss.before[0]]
        if loss.kind == "BCEWithLogitsLoss" and activation == "Sigmoid":
            continue  # has a pitfall of its own
        last = at(seen.model, loss.last)
        if loss.kind in _LOGITS:
            yield _finding(
                loss, activation, last, f"{loss.kind} is given the output of {activation}, not that of {last}"
            )
        elif loss.kind in _DISTANCES:
            for call in _outside(seen, low, high):
                yield _finding(
                    loss,
                    activation,
                    last,
                    f"targets reach from {call.low:.3g} to {call.high:.3g}, and {activation} after {last} gives "
                    f"{low:g} to {high:g}",
                )


def _outside(seen: Seen, low: float, high: float) -> list[Call]:
    """Return the call whose targets the model cannot reach; values a rounding error away are reached."""
    slack = 0.05
    return [
        call
        for call in seen.calls[:1]
        if call.low is not None and call.high is not None and (call.low < low - slack or call.high > high + slack)
    ]


def _finding(loss: Loss, activation: str, last: str, what: str) -> Finding:
    return found(
        (CODE, NAME),
        what,
        why=WHY.format(activation=activation),
        do=DO.format(activation=activation, last=last),
        where=loss.last,
    )
