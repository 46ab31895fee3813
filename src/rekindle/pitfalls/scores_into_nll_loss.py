"""NLLLoss of plain scores or probabilities, which wants log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found

CODE, NAME, SINCE = "RK-PIT-04", "scores-into-nll-loss", "0.2"
WHY = "NLLLoss takes log-probabilities as they are; of anything else it falls without end and means nothing"
DO = "loss_fn = nn.CrossEntropyLoss(), or loss_fn(scores.log_softmax(1), labels)"

# Operations that certainly give no log-probabilities.
_OTHERS = {"Addmm": "scores", "Mm": "scores", "Convolution": "scores", "Softmax": "probabilities", "Relu": "scores"}


def check(seen: Seen) -> Iterator[Finding]:
    """Look at what the loss was given."""
    for loss in seen.losses:
        if loss.kind == "NLLLoss" and loss.before and loss.before[0] in _OTHERS:
            yield found(
                (CODE, NAME),
                f"NLLLoss is given the {_OTHERS[loss.before[0]]} of {at(seen.model, loss.last)}",
                why=WHY,
                do=DO,
                where=loss.last,
            )
