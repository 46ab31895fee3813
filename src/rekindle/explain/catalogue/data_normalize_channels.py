"""Normalize was given three means for a grey image, or one too many."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.catalogue._words import numbers
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-05", "data-normalize-channels", "0.2"
TITLE = "RuntimeError: output with shape [1, 28, 28] doesn't match the broadcast shape [3, 28, 28]"
RAISES = ("RuntimeError",)
NEEDLES = ("doesn't match the broadcast shape", "The size of tensor a (")
PATTERNS = (
    r"output with shape \[(?P<have>[\d, ]+)\] doesn't match the broadcast shape \[(?P<want>[\d, ]+)\]",
    r"The size of tensor a \((?P<a>\d+)\) must match the size of tensor b \((?P<b>\d+)\) at non-singleton dimension 0",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`Normalize` has one mean and one standard deviation for each channel. Three of them for an image of one channel"
    " would make three channels of it, which an operation in place cannot."
)
CHECK = "`image.shape[0]` and `len(mean)`."


def explain(event: Event) -> Iterator[Cause]:
    """Only of an image: three dimensions that differ in the first, or inside torchvision's normalize."""
    inside = is_in(event, "normalize")
    is_own = inside and event.user_frame is not None and event.user_frame == event.frames[-1]
    if "a" in event.facts:
        if not inside:
            return  # shape-broadcast
        have, want = int(event.facts["a"]), int(event.facts["b"])
    else:
        a, b = numbers(event.facts["have"]), numbers(event.facts["want"])
        is_image = len(a) in (3, 4) and len(a) == len(b) and a[-2:] == b[-2:] and a[-3] == 1 and b[-3] in (3, 4)
        if not inside and (not is_image or event.frames):
            return
        if not is_image:
            return
        have, want = a[-3], b[-3]
    one = ", ".join(["0.5"] * min(have, 4))
    comma = "," if have == 1 else ""
    yield Cause(
        CODE,
        NAME,
        what=f"the image has {have} {'channel' if have == 1 else 'channels'}, {'the mean' if is_own else 'Normalize'} has {want}{'' if is_own else ' means'}",
        why="it takes one mean and one standard deviation for each channel",
        fix=(
            f"transforms.Normalize(({one}{comma}), ({one}{comma}))   # {have} of each",
            f"transforms.Grayscale(num_output_channels={want})   # in front of ToTensor, if the model wants {want} channels",
            'Image.open(path).convert("RGB")   # if some of the files are grey and others are not',
        )
        if have == 1
        else (
            f"transforms.Normalize(mean, std)   # with {have} numbers in each",
            'Image.open(path).convert("RGB")   # if this file has another number of channels than the rest: 4 is RGBA',
        ),
        likelihood="certain" if inside and not is_own else "likely",
    )


EXAMPLE = """
from PIL import Image
from torchvision import transforms

prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
prepare(Image.new("L", (28, 28)))
"""
MENDED = """
from PIL import Image
from torchvision import transforms

prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
prepare(Image.new("L", (28, 28)))
"""
REQUIRES = ("torchvision",)
MESSAGE = """Traceback (most recent call last):
  File "/home/ada/project/train.py", line 5, in <module>
    prepare(Image.new("L", (28, 28)))
  File "/opt/venv/lib/python3.11/site-packages/torchvision/transforms/functional.py", line 350, in normalize
    return F_t.normalize(tensor, mean=mean, std=std, inplace=inplace)
  File "/opt/venv/lib/python3.11/site-packages/torchvision/transforms/_functional_tensor.py", line 928, in normalize
    return tensor.sub_(mean).div_(std)
RuntimeError: output with shape [1, 28, 28] doesn't match the broadcast shape [3, 28, 28]
"""
