"""A sigmoid before BCEWithLogitsLoss, which applies it itself."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found

CODE, NAME, SINCE = "RK-PIT-03", "sigmoid-before-bce-with-logits", "0.2"
WHY = "the loss applies the sigmoid itself; of a sigmoid's output it sees probabilities between 0.5 and 0.73 only"
DO = "give BCEWithLogitsLoss the output of {last}, or keep the sigmoid and use nn.BCELoss()"


def check(seen: Seen) -> Iterator[Finding]:
    """Look at what the loss was given."""
    for loss in seen.losses:
        if loss.kind == "BCEWithLogitsLoss" and loss.before[:1] == ("Sigmoid",):
            place = seen.places.get("Sigmoid", "")
            yield found(
                (CODE, NAME),
                f"BCEWithLogitsLoss is given the output of a sigmoid after {at(seen.model, loss.last)}"
                + (f" ({place})" if place else ""),
                why=WHY,
                do=DO.format(last=at(seen.model, loss.last)),
                where=loss.last,
            )
