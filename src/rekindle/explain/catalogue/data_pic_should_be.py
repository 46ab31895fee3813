"""A transform got a tensor where it takes an image, mostly ToTensor twice."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-02", "data-pic-should-be", "0.2"
TITLE = "TypeError: pic should be PIL Image or ndarray. Got <class 'torch.Tensor'>"
RAISES = ("TypeError",)
NEEDLES = ("pic should be ",)
PATTERNS = (
    r"pic should be (?:a )?(?P<want>PIL Image or ndarr[a]?y|Tensor or ndarray)\. Got <class '(?P<got>[\w.]+)'>",
)
OLD = (
    "TypeError: pic should be PIL Image or ndarry. Got <class 'torch.Tensor'>",
    "TypeError: pic should be Tensor or ndarray. Got <class 'PIL.Image.Image'>.",
)
WHY = (
    "`ToTensor` makes a tensor of an image (PIL or NumPy) and takes nothing else. It is in the list of transforms twice,"
    " or the data set gives tensors already. `ToPILImage` is the reverse: it takes tensors and arrays."
)
CHECK = "Print the list of transforms and the type in front of each: `for t in transform.transforms: print(t); x = t(x); print(type(x))`."


def explain(event: Event) -> Iterator[Cause]:
    """What came and which transform complained; a file name that was never opened is told apart."""
    got = event.facts["got"]
    to_image = event.facts["want"].startswith("Tensor")
    name = "ToPILImage" if to_image else "ToTensor"
    short = {"torch.Tensor": "a tensor", "PIL.Image.Image": "a PIL image", "NoneType": "None"}.get(
        got, f"an object of the class {got}"
    )
    fix: tuple[str, ...]
    if to_image:
        why, fix = (
            "ToPILImage takes tensors and arrays",
            ("transforms.ToPILImage()   # out of the list, if it is an image already",),
        )
    elif got == "torch.Tensor":
        why = "ToTensor takes images (PIL or NumPy); it stands in the list twice, or the data set gives tensors already"
        fix = (
            "transforms.Compose([..., transforms.ToTensor(), transforms.Normalize(mean, std)])   # ToTensor once, after all that takes images",
            "transforms.v2.ToDtype(torch.float32, scale=True)   # in its place, if the data set gives uint8 tensors",
        )
    elif got == "str":
        why = "it was given the file's name, not the image"
        fix = ('Image.open(path).convert("RGB")   # from PIL; in __getitem__, in front of the transforms',)
    else:
        why = "ToTensor takes a PIL image or a NumPy array of 2 or 3 dimensions"
        fix = ("print(type(sample))   # in front of the transforms: what does the data set give",)
    yield Cause(CODE, NAME, what=f"{name} got {short}", why=why, fix=fix, likelihood="certain")


EXAMPLE = """
from PIL import Image
from torchvision import transforms

prepare = transforms.Compose([transforms.ToTensor(), transforms.ToTensor()])
prepare(Image.new("RGB", (4, 4)))
"""
MENDED = """
from PIL import Image
from torchvision import transforms

prepare = transforms.Compose([transforms.ToTensor()])
prepare(Image.new("RGB", (4, 4)))
"""
REQUIRES = ("torchvision",)
MESSAGE = "TypeError: pic should be PIL Image or ndarray. Got <class 'torch.Tensor'>"
