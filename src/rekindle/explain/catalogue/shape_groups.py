"""Channels do not divide by the groups of a GroupNorm or a convolution, or are not those it was made for."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, running
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-30", "shape-groups", "0.2"
TITLE = "ValueError: num_channels (20) must be divisible by num_groups (8)"
RAISES = ("ValueError", "RuntimeError")
NEEDLES = (
    "must be divisible by num_groups",
    "channels must be divisible by groups",
    "number of channels in input",
    "divisible by num_groups",
)
PATTERNS = (
    r"num_channels(?: \((?P<channels>\d+)\))? must be divisible by num_groups(?: \((?P<groups>\d+)\))?",
    r"(?P<side>in|out)_channels must be divisible by groups",
    r"Expected weight to be a vector of size equal to the number of channels in input, but got weight of shape \[(?P<want>\d+)\] and input of shape \[(?P<have>[\d, ]+)\]",
    r"Expected number of channels in input to be divisible by num_groups, but got input of shape \[(?P<have>[\d, ]+)\] and num_groups=(?P<groups>\d+)",
)
OLD = ("ValueError: num_channels must be divisible by num_groups",)
WHY = (
    "`GroupNorm(groups, channels)` and `Conv2d(..., groups=g)` cut the channels into equal groups. The first number of a `GroupNorm` is the"
    " number of groups, not the size of one; its second is the channels of what comes in."
)
CHECK = "The channels in front of the layer: `x.shape[1]`, and whether both numbers stand in their order."


def explain(event: Event) -> Iterator[Cause]:
    """The numbers and group counts that divide."""
    fix: tuple[str, ...]
    facts = event.facts
    module = running(event, "GroupNorm")
    if facts.get("want"):
        have = numbers(facts["have"])
        channels = have[1] if len(have) > 1 else have[0]
        yield Cause(
            CODE,
            NAME,
            what=f"{called(module, 'a GroupNorm')} was made for {facts['want']} channels and got {channels}: {shape_text(have)}",
            why="it has one weight for each channel",
            fix=(f"nn.GroupNorm(num_groups, {channels})   # if what comes in is right",),
            likelihood="certain",
        )
        return
    live = event.live
    groups = facts.get("groups") or str(live.find_plain("groups", "num_groups") or "" if live else "")
    channels_said = facts.get("channels") or (str(numbers(facts["have"])[1]) if facts.get("have") else "")
    if facts.get("side") and live:
        channels_said = str(live.find_plain(f"{facts['side']}_channels", function="__init__") or "")
    layer = f"a convolution ({facts['side']}_channels)" if facts.get("side") else "a GroupNorm"
    if channels_said and groups:
        count, into = int(channels_said), int(groups)
        fits = sorted((n for n in range(1, min(count, 65) + 1) if count % n == 0), key=lambda n: (abs(n - into), n))[:3]
        what = f"the {count} channels of {layer} do not divide into {into} groups"
        fix = (f"groups of {' or '.join(map(str, sorted(fits)))}   # these divide {count}",)
    else:
        what = f"the channels of {layer} do not divide into its groups"
        fix = ("print(channels, groups, channels % groups)   # the rest has to be 0",)
    if facts.get("side"):
        fix = (*fix, "groups has to divide in_channels and out_channels; groups=in_channels is a depthwise convolution")
    yield Cause(CODE, NAME, what=what, why="each group has the same number of channels", fix=fix, likelihood="certain")


EXAMPLE = """
from torch import nn

nn.GroupNorm(32, 48)
"""
MENDED = """
from torch import nn

nn.GroupNorm(16, 48)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
