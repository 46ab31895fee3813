"""A picture with its channels first was given to matplotlib or Pillow."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-35", "data-image-channels-first", "0.2"
TITLE = "TypeError: Invalid shape (3, 28, 28) for image data"
RAISES = ("TypeError",)
NEEDLES = ("for image data", "Cannot handle this data type")
PATTERNS = (
    r"Invalid (?:shape|dimensions) \((?P<shape>\d+, \d+, \d+)\) for image data",
    r"Cannot handle this data type: \(1, 1, (?P<last>\d+)\)",
)
OLD = ("TypeError: Cannot handle this data type: (1, 1, 224), |u1",)
WHY = "PyTorch's pictures are [channels, rows, columns]; matplotlib, Pillow and OpenCV take the channels last. A picture that was normalised for a network also needs its mean and deviation back to look right."
CHECK = "`image.shape`: 3 or 1 in front means channels first."


def explain(event: Event) -> Iterator[Cause]:
    """Only where the channels stand first."""
    shape = numbers(event.facts.get("shape", ""))
    last = event.facts.get("last")
    if (shape and shape[0] not in {1, 2, 3, 4}) or (last and int(last) <= 4):
        return
    met = next((fact for fact in tensors_in_line(event) if len(fact.shape) == 3), None)
    name = met.name if met else "image"
    yield Cause(
        CODE,
        NAME,
        what=f"a picture of {shape_text(shape)} has its channels first"
        if shape
        else "a picture has its channels first",
        why="matplotlib and Pillow take rows, columns, channels",
        fix=(
            f"plt.imshow({name}.permute(1, 2, 0))"
            if not (shape and shape[0] == 1)
            else f'plt.imshow({name}[0], cmap="gray")',
            f"rk.to_pil({name})   # for Pillow",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot

image = torch.rand(3, 28, 28)
pyplot.imshow(image)
"""
MENDED = """
import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot

image = torch.rand(3, 28, 28)
pyplot.imshow(image.permute(1, 2, 0))
"""
REQUIRES = ("matplotlib",)
MESSAGE = "TypeError: Invalid shape (3, 28, 28) for image data"
