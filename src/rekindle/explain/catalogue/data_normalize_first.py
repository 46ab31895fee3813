"""Normalize stands in front of ToTensor."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-03", "data-normalize-first", "0.2"
TITLE = "TypeError: img should be Tensor Image. Got <class 'PIL.Image.Image'>"
RAISES = ("TypeError",)
NEEDLES = (
    "img should be Tensor Image.",
    "tensor is not a torch image",
    "tensor should be a torch tensor. Got",
    "Normalize() does not support PIL images",
    "Input tensor should be a float tensor. Got",
)
PATTERNS = (
    r"img should be Tensor Image\. Got <class '(?P<got>[\w.]+)'>",
    r"^TypeError: tensor is not a torch image",
    r"tensor should be a torch tensor\. Got <class '(?P<got>[\w.]+)'>",
    r"Normalize\(\) does not support (?P<got>PIL images)",
    r"Input tensor should be a float tensor\. Got (?:torch\.)?(?P<dtype>\w+)",
)
OLD = (
    "TypeError: tensor is not a torch image.",
    "TypeError: tensor should be a torch tensor. Got <class 'PIL.Image.Image'>.",
    "TypeError: Normalize() does not support PIL images.",
    "TypeError: Input tensor should be a float tensor. Got torch.uint8.",
)
WHY = (
    "`Normalize` computes on float tensors. What works on images (resize, flip, crop, colour) stands in front of"
    " `ToTensor`, `Normalize` behind it."
)
CHECK = "The order of the list of transforms: `print(transform)`."


def explain(event: Event) -> Iterator[Cause]:
    """An image, or a tensor of whole numbers."""
    dtype = event.facts.get("dtype", "")
    order = "transforms.Compose([transforms.Resize(256), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(mean, std)])"
    if dtype:
        yield Cause(
            CODE,
            NAME,
            what=f"a tensor of {dtype} came to Normalize",
            why="mean and standard deviation are of values from 0 to 1; the image still has those from 0 to 255",
            fix=("transforms.v2.ToDtype(torch.float32, scale=True)   # in front of Normalize", "image.float() / 255"),
            likelihood="certain",
        )
        return
    got = event.facts.get("got", "")
    came = "a PIL image" if not got or "PIL" in got else f"an object of the class {got}"
    yield Cause(
        CODE,
        NAME,
        what=f"{came} came to Normalize, not a tensor",
        why="Normalize computes on tensors; in the list of transforms it stands in front of ToTensor, or ToTensor is missing",
        fix=(
            order,
            "transforms.v2.Compose([transforms.v2.ToImage(), transforms.v2.ToDtype(torch.float32, scale=True), transforms.v2.Normalize(mean, std)])",
        ),
        likelihood="certain",
    )


EXAMPLE = """
from PIL import Image
from torchvision import transforms

prepare = transforms.Compose([transforms.Normalize([0.5], [0.5]), transforms.ToTensor()])
prepare(Image.new("RGB", (4, 4)))
"""
MENDED = """
from PIL import Image
from torchvision import transforms

prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
prepare(Image.new("RGB", (4, 4)))
"""
REQUIRES = ("torchvision",)
MESSAGE = "TypeError: img should be Tensor Image. Got <class 'PIL.Image.Image'>"
