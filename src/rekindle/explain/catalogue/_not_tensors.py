"""A layer or function got something that is no tensor: which one, and what it got, in every wording."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rekindle.explain.catalogue._modules import called
from rekindle.explain.event import Event

__all__ = ["NEEDLES", "PATTERNS", "Given", "given_of"]

NEEDLES = (
    "must be Tensor, not ",
    "received an invalid combination of arguments - got (",
    "object has no attribute '",
    "takes from 0 to 1 positional arguments",
)
PATTERNS = (
    r"\b(?P<op>\w{1,60})\(\): argument '(?P<argument>\w+)' \(position \d+\) must be Tensor, not (?P<got>[\w.]+)",
    r"\b(?P<op>\w{1,60})\(\) received an invalid combination of arguments - got \((?P<got>numpy\.ndarray|ndarray|list|tuple|NoneType|str|dict|Image|JpegImageFile|PngImageFile)\b",
    r"'(?P<got>numpy\.ndarray|ndarray|list|tuple|NoneType|JpegImageFile|PngImageFile|Image)' object has no attribute '(?P<name>\w+)'",
)
_LAYERS = re.compile(r"torch[/\\]nn[/\\](?:functional|modules)")


@dataclass(frozen=True, slots=True)
class Given:
    """What was given.

    Attributes:
        got: its type, as torch names it.
        taker: the layer or function that wanted a tensor, for a sentence.
        attribute: the attribute of a tensor that was asked for, or an empty text.
        is_in_layer: whether a layer of torch was running.
    """

    got: str
    taker: str
    attribute: str
    is_in_layer: bool


def given_of(event: Event) -> Given:
    """Return what the match of one of `PATTERNS` and the frames tell."""
    facts = event.facts
    got = {"ndarray": "numpy.ndarray"}.get(facts["got"], facts["got"])
    last = event.frames[-1] if event.frames else None
    inside = last is not None and _LAYERS.search(last.path) is not None
    module = event.live.module if event.live else None
    op = facts.get("op", "")
    name = called(module, "") if module is not None and inside else ""
    return Given(got, name or (f"{op}()" if op else "the next layer"), facts.get("name", ""), inside)
