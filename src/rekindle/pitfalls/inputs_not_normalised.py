"""Inputs far from 0 that reach the first layer as they are."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found

CODE, NAME, SINCE = "RK-PIT-20", "inputs-not-normalised", "0.2"
WHY = (
    "layers start out for inputs around 0 with a spread of about 1; of larger ones units saturate and updates overshoot"
)
DO = "{remedy}"

_LAYERS = {"Linear", "Conv1d", "Conv2d", "Conv3d", "LSTM", "GRU", "RNN"}
_LARGEST = 20.0


def check(seen: Seen) -> Iterator[Finding]:
    """Look at the range of what reached the first layer; a norm in front of it is that layer."""
    for one in seen.inputs[:1]:
        if one.kind not in _LAYERS or max(abs(one.mean), one.spread) <= _LARGEST:
            continue
        pictures = one.low >= 0 and one.high <= 255 and len(one.shape) >= 3
        yield found(
            (CODE, NAME),
            f"inputs of {at(seen.model, one.layer, seen.model)} reach from {one.low:.4g} to {one.high:.4g} "
            f"(mean {one.mean:.3g}, "
            f"spread {one.spread:.3g})",
            why=WHY,
            do="inputs = inputs.float() / 255, then (inputs - mean) / std of the training set"
            if pictures
            else "inputs = (inputs - mean) / std    # both of each feature, over the training set",
            where=one.layer,
        )
