"""The channels stand last (H, W, C), where PyTorch wants them first (C, H, W)."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._convolutions import met
from rekindle.explain.catalogue._modules import called, running
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-04", "shape-conv-nhwc", "0.2"
TITLE = "Given groups=1, weight of size [6, 3, 5, 5], expected input[8, 224, 224, 3] to have 3 channels, but got 224 channels instead"
RAISES = ("RuntimeError",)
NEEDLES = ("channels instead",)
PATTERNS = (
    r"Given (?:groups|transposed)=(?P<groups>\d+), weight of size \[?(?P<weight>[\d, ]+)\]?, expected input ?\[(?P<input>[\d, ]+)\] to have (?P<want>\d+) channels, but got (?P<have>\d+) channels instead",
)
OLD = (
    (
        "RuntimeError: Given groups=1, weight of size 64 3 7 7, expected input[1, 224, 224, 3] to have 3 channels, but got 224"
        " channels instead"
    ),
)
WHY = (
    "NumPy, OpenCV and PIL keep an image as height, width, channels; PyTorch wants channels, height, width. Turn the"
    " dimensions round with `permute`. `view` and `reshape` give the right shape too and scramble the pixels."
)
CHECK = "The last dimension is 1, 3 or 4, and it is the number the layer wants."


def explain(event: Event) -> Iterator[Cause]:
    """Only where the last dimension is what the layer wants and the second is a side of the image."""
    case = met(event)
    if not case.is_channels_last:
        return
    sizes = len(case.shape)
    order = (0, sizes - 1, *range(1, sizes - 1))
    one = (sizes - 2, *range(sizes - 2))
    turned = shape_text([case.shape[place] for place in order])
    batch = f"images = images.permute({', '.join(map(str, order))})   # {shape_text(case.shape)} becomes {turned}"
    single = f"image = image.permute({', '.join(map(str, one))})   # one image; not view or reshape, which scramble the pixels"
    yield Cause(
        CODE,
        NAME,
        what=f"the channels stand last in {shape_text(case.shape)}; {called(running(event), 'the convolution')} wants them second",
        why=f"arrays of NumPy, OpenCV and PIL are height, width, channels: the {case.want} at the end are the {case.want}"
        f" channels, and {case.have} is a side of the image",
        fix=(single, batch) if case.shape[0] == 1 else (batch, single),
        likelihood="certain",
    )


EXAMPLE = """
import numpy as np
import torch
from torch import nn

images = np.zeros((8, 224, 224, 3), dtype=np.float32)
nn.Conv2d(3, 6, 5)(torch.from_numpy(images))
"""
MENDED = """
import numpy as np
import torch
from torch import nn

images = np.zeros((8, 224, 224, 3), dtype=np.float32)
nn.Conv2d(3, 6, 5)(torch.from_numpy(images).permute(0, 3, 1, 2))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
