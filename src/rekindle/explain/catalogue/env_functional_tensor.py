"""torchvision's private module functional_tensor was removed in 0.17."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._importing import importer
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-18", "env-functional-tensor", "0.2"
TITLE = "ModuleNotFoundError: No module named 'torchvision.transforms.functional_tensor'"
RAISES = ("ModuleNotFoundError", "ImportError")
NEEDLES = (
    "torchvision.transforms.functional_tensor",
    "torchvision.transforms._functional_video",
    "torchvision.transforms._transforms_video",
)
PATTERNS = (r"No module named 'torchvision\.transforms\.(?P<part>functional_tensor)'",)
OLD: tuple[str, ...] = ()
WHY = "`torchvision.transforms.functional_tensor` was never public and was removed in 0.17. basicsr, pytorchvideo, gfpgan and others import `rgb_to_grayscale` and the like from it; the public module `functional` has them."
CHECK = "The file in the traceback that imports it."


def explain(event: Event) -> Iterator[Cause]:
    """Whose line it is."""
    package = importer(event, "functional_tensor")
    last = next((frame for frame in reversed(event.frames) if "functional_tensor" in frame.code), None)
    place = f" ({last})" if last is not None and package else ""
    yield Cause(
        CODE,
        NAME,
        what=f"{package or 'the code'} imports torchvision.transforms.functional_tensor, which torchvision has no more",
        why="it was a private module, removed in 0.17; its functions are in torchvision.transforms.functional",
        fix=(
            *((f"pip install -U {package}   # the line is its own{place}",) if package else ()),
            "from torchvision.transforms.functional import rgb_to_grayscale   # in place of functional_tensor, in that line",
            'pip install "torchvision<0.17"   # with the torch that belongs to it, for an environment that has to stay as it is',
        ),
        likelihood="certain",
    )


EXAMPLE = """
from torchvision.transforms.functional_tensor import rgb_to_grayscale

print(rgb_to_grayscale)
"""
MENDED = """
from torchvision.transforms.functional import rgb_to_grayscale

print(rgb_to_grayscale)
"""
REQUIRES = ("torchvision",)
MESSAGE = "ModuleNotFoundError: No module named 'torchvision.transforms.functional_tensor'"
