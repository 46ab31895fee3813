"""Pictures with their channels last, where a convolution wants them second."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, at, found

CODE, NAME, SINCE = "RK-PIT-21", "channels-last-inputs", "0.2"
WHY = "a Conv2d takes [batch, channels, height, width]; rows of pixels are taken for channels, and it can even fit"
DO = "inputs = inputs.permute(0, 3, 1, 2)"


def check(seen: Seen) -> Iterator[Finding]:
    """Look for [B, H, W, 1 to 4] in front of a convolution over pictures."""
    for one in seen.inputs[:1]:
        if one.kind != "Conv2d" or len(one.shape) != 4:
            continue
        _, second, third, last = one.shape
        if last in {1, 3, 4} and second > 4 and third > 4:
            yield found(
                (CODE, NAME),
                f"{at(seen.model, one.layer, seen.model)} (Conv2d) is given {list(one.shape)}: "
                "the channels seem to stand last",
                why=WHY,
                do=DO,
                where=one.layer,
            )
