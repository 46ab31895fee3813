"""A dot stands in place of a comma in a list of transforms."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-04", "data-compose-dot", "0.2"
TITLE = "AttributeError: 'RandomHorizontalFlip' object has no attribute 'transforms'"
RAISES = ("AttributeError",)
NEEDLES = (
    "object has no attribute 'transforms'",
    "object has no attribute 'T'",
    "object has no attribute 'ToTensor'",
    "object has no attribute 'Normalize'",
)
PATTERNS = (
    r"'(?P<kind>Random\w+|CenterCrop|Resize|Pad|ColorJitter|ToTensor|ToImage|ToDtype|Normalize|Grayscale|Lambda|FiveCrop|TenCrop|GaussianBlur|RandAugment|TrivialAugmentWide|AutoAugment|AugMix|PILToTensor|ConvertImageDtype)' object has no attribute '(?P<name>transforms|T|ToTensor|Normalize)'",
)
OLD: tuple[str, ...] = ()
WHY = "A line that ends in a dot goes on in the next one: `RandomHorizontalFlip().` and then `transforms.ToTensor()` reads as an attribute of the flip."
CHECK = "The end of the line above the one that failed."


def explain(event: Event) -> Iterator[Cause]:
    """The transform after which the dot stands."""
    kind, name = event.facts["kind"], event.facts["name"]
    yield Cause(
        CODE,
        NAME,
        what=f"{kind}(...) is followed by a dot where a comma belongs",
        why=f"so the next entry of the list is read as the attribute {name} of {kind}",
        fix=(f"transforms.{kind}(...),   # a comma at the end of the line, not a dot",),
        likelihood="certain",
    )


EXAMPLE = """
from torchvision import transforms

transforms.Compose([
    transforms.RandomHorizontalFlip().
    transforms.ToTensor(),
])
"""
MENDED = """
from torchvision import transforms

transforms.Compose([
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
])
"""
REQUIRES = ("torchvision",)
MESSAGE = "AttributeError: 'RandomHorizontalFlip' object has no attribute 'transforms'"
