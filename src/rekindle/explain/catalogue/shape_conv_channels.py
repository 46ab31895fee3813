"""The input has another number of channels than the convolution was made for."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._convolutions import Met, met
from rekindle.explain.catalogue._modules import called, running
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-03", "shape-conv-channels", "0.2"
TITLE = "Given groups=1, weight of size [6, 1, 5, 5], expected input[16, 3, 32, 32] to have 1 channels, but got 3 channels instead"
RAISES = ("RuntimeError",)
NEEDLES = ("channels instead", "running_mean should contain ")
PATTERNS = (
    r"Given (?:groups|transposed)=(?P<groups>\d+), weight of size \[?(?P<weight>[\d, ]+)\]?, expected input ?\[(?P<input>[\d, ]+)\] to have (?P<want>\d+) channels, but got (?P<have>\d+) channels instead",
    r"running_mean should contain (?P<mean>\d+) elements not (?P<size>\d+)",
)
OLD = (
    (
        "RuntimeError: Given groups=1, weight of size 6 1 5 5, expected input [16, 3, 32, 32] to have 1 channels, but got 3"
        " channels instead"
    ),
)
WHY = (
    "The second dimension of a batch of images is the channels: 1 for grey, 3 for colour, 4 with transparency. A"
    " convolution is made for one number of them. Colour images in a network for grey ones (MNIST), grey images in one"
    " for colour (ImageNet), or PNG files with an alpha channel end here; deeper in a network, two layers do not fit."
)
CHECK = "`images.shape[1]` against the layer's `in_channels`."


def explain(event: Event) -> Iterator[Cause]:
    """Grey, colour or transparent images by their numbers; a batch that lost a dimension."""
    if "mean" in event.facts:
        have, want = event.facts["mean"], event.facts["size"]
        yield Cause(
            CODE,
            NAME,
            what=f"{called(running(event), 'a batch norm')} was made for {want} channels and got {have}",
            why="it keeps a mean and a variance for each channel; the layer in front of it gives another number of them",
            fix=(
                f"nn.BatchNorm2d({have})   # as many as the layer in front of it gives (BatchNorm1d behind a Linear)",
            ),
            likelihood="certain",
        )
        return
    case = met(event)
    if case.is_channels_last:
        return  # shape-conv-nhwc
    module = running(event)
    layer = called(module, "the convolution")
    yield Cause(
        CODE,
        NAME,
        what=f"{layer} takes {case.want} {'channel' if case.want == 1 else 'channels'} and got {case.have} (input {shape_text(case.shape)})",
        why=_why(case),
        fix=_fix(case),
        likelihood="certain",
    )


def _why(case: Met) -> str:
    if case.lacks_channels:
        return f"an input of three dimensions is taken for one image without a batch: {case.have} was the batch size"
    names = {1: "grey images", 3: "colour images", 4: "images with transparency"}
    usual = len(case.weight) == 4 and case.want in {1, 3} and case.have in names
    if usual:
        return f"these look like {names[case.have]} ({case.have}), and the network was made for {names[case.want]} ({case.want})"
    return f"the second dimension of the input is the channels: {case.have}; the weight {shape_text(case.weight)} was made for {case.want}"


def _fix(case: Met) -> tuple[str, ...]:
    rest = f", {case.weight[0]}, {case.weight[2]}" if len(case.weight) > 2 and not case.is_transposed else ", ..."
    kind = "nn.ConvTranspose" if case.is_transposed else "nn.Conv"
    layer = f"{kind}{max(len(case.weight) - 2, 1)}d({case.have}{rest})   # the layer for this input; keep its other settings"
    if case.lacks_channels:
        return ("images.unsqueeze(1)   # (N, H, W) becomes (N, 1, H, W)",)
    if case.want == 1 and case.have in {3, 4}:
        return ("transforms.Grayscale()   # in the transforms: images as the network wants them", layer)
    if case.want == 3 and case.have in {1, 2, 4}:
        return ('Image.open(path).convert("RGB")   # three channels, whatever the file has', layer)
    return (layer,)


EXAMPLE = """
import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU())
net(torch.ones(16, 3, 32, 32))
"""
MENDED = """
import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU())
net(torch.ones(16, 3, 32, 32))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
