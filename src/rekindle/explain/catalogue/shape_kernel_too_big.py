"""The feature map has become smaller than the kernel."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, first_input, running
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-07", "shape-kernel-too-big", "0.2"
TITLE = "Calculated padded input size per channel: (2 x 2). Kernel size: (5 x 5). Kernel size can't be greater than actual input size"
RAISES = ("RuntimeError",)
NEEDLES = ("Calculated padded input size per channel", "Output size is too small")
PATTERNS = (
    r"Calculated padded input size per channel: \((?P<have>[\dx ]+)\)\. Kernel size: \((?P<kernel>[\dx ]+)\)",
    r"Given input size(?: per channel)?: \((?P<have>[\dx ]+)\)\. Calculated output size(?: per channel)?: \((?P<output>[-\dx ]+)\)\. Output size is too small",
)
OLD = (
    (
        "RuntimeError: Calculated padded input size per channel: (2 x 2). Kernel size: (5 x 5). Kernel size can't greater than"
        " actual input size at /pytorch/aten/src/THNN/generic/SpatialConvolutionMM.c:50"
    ),
)
WHY = (
    "Every stride and pooling makes the feature map smaller. With an image smaller than the network was made for (CIFAR's"
    " 32 x 32 in a network for 224 x 224), nothing is left for the kernel in the deeper layers."
)
CHECK = "The size of the input images, and the product of the strides and poolings in front of this layer."


def explain(event: Event) -> Iterator[Cause]:
    """The layer, what reaches it and the image it began as, where they are known."""
    facts = event.facts
    module = running(event)
    outer = first_input(event.live.modules[0]) if event.live and len(event.live.modules) > 1 else None
    began = f"; the network was given {shape_text(outer.shape)}" if outer is not None else ""
    have = facts["have"].replace(" ", "")
    kernel = facts.get("kernel", "").replace(" ", "")
    yield Cause(
        CODE,
        NAME,
        what=f"{called(module, 'the convolution' if kernel else 'the pooling')} has a feature map of {have} in front of it"
        + (f", smaller than its kernel {kernel}" if kernel else ", and nothing would be left of it"),
        why=f"strides and poolings before it made the map this small: the images are too small for so many of them{began}",
        fix=(
            "transforms.Resize(...)   # larger images, of the size that the network was made for",
            "padding=..., stride=1   # or keep the size in earlier layers, or leave a pooling out",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5))
net(torch.ones(1, 3, 8, 8))
"""
MENDED = """
import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5))
net(torch.ones(1, 3, 32, 32))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
