"""A convolution and an input whose channels do not fit: which of two mistakes the sizes show."""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.explain.catalogue._words import numbers
from rekindle.explain.event import Event

__all__ = ["Met", "met"]

_MOST_CHANNELS = 4  # of an image: grey, with alpha, colour, colour with alpha


@dataclass(frozen=True, slots=True)
class Met:
    """What the message says.

    Attributes:
        weight: shape of the weight, (out, in / groups, ...), the other way round if transposed.
        shape: shape of the input; torch puts a 1 in front of a single sample.
        want: channels that the layer takes.
        have: channels that came.
        is_transposed: whether the layer is a transposed convolution.
    """

    weight: tuple[int, ...]
    shape: tuple[int, ...]
    want: int
    have: int
    is_transposed: bool

    @property
    def is_channels_last(self) -> bool:
        """Whether the last dimension is the channels that the layer wants, and the second a side of the image."""
        return (
            len(self.shape) > 3
            and self.shape[-1] == self.want <= _MOST_CHANNELS < self.have
            and len(self.weight) == len(self.shape)
        )

    @property
    def lacks_channels(self) -> bool:
        """Whether a batch of images without channels (N, H, W) was taken for one image (C, H, W)."""
        return self.shape[:1] == (1,) and self.want == 1 and self.have > _MOST_CHANNELS


def met(event: Event) -> Met:
    """Return what the message of a convolution says."""
    facts = event.facts
    return Met(
        numbers(facts["weight"]),
        numbers(facts["input"]),
        int(facts["want"]),
        int(facts["have"]),
        "transposed=" in event.message,
    )
