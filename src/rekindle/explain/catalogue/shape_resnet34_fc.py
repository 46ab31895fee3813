"""The new head was made for another member of the family: 2048 features against 512."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._matrices import is_other_backbone, is_unflattened
from rekindle.explain.catalogue._modules import called, first_input, running
from rekindle.explain.catalogue._words import attribute
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-02", "shape-resnet34-fc", "0.2"
TITLE = "mat1 and mat2 shapes cannot be multiplied (1x512 and 2048x2)"
RAISES = ("RuntimeError",)
NEEDLES = ("mat1 and mat2 shapes cannot be multiplied", "size mismatch, m1:", "must have same reduction dim, but got")
PATTERNS = (
    r"mat1 and mat2 shapes cannot be multiplied \((?P<rows>\d+)x(?P<have>\d+) and (?P<want>\d+)x(?P<out>\d+)\)",
    r"must have same reduction dim, but got \[(?P<rows>\d+), (?P<have>\d+)\] X \[(?P<want>\d+), (?P<out>\d+)\]",
    r"size mismatch, m1: \[(?P<rows>\d+) x (?P<have>\d+)\], m2: \[(?P<want>\d+) x (?P<out>\d+)\]",
)
OLD = ("RuntimeError: size mismatch, m1: [1 x 512], m2: [2048 x 2] at ../aten/src/TH/generic/THTensorMath.cpp:752",)
WHY = (
    "Networks of one family end in different numbers of features: ResNet-18 and -34 in 512, ResNet-50 and larger in 2048;"
    " EfficientNet, DenseNet and ViT have a number for each size. A head that was written for one does not fit the other."
    " The number stands in the head that is being replaced."
)
CHECK = "`print(model.fc)` (or `model.classifier`, `model.head`) before it is replaced: its `in_features`."


def explain(event: Event) -> Iterator[Cause]:
    """Only where both numbers are what backbones end in, and the input was flat."""
    rows, have, want, out = (int(event.facts[name]) for name in ("rows", "have", "want", "out"))
    module = running(event)
    given = first_input(module)
    if not is_other_backbone(have, want) or is_unflattened(rows, have, want):
        return
    if module is not None and ("Linear" not in module.kind or (given is not None and len(given.shape) != 2)):
        return
    if module is None and event.frames and event.frames[-1].is_users:
        return  # a product of the user's own
    name = module.name if module is not None and module.name else "fc"
    yield Cause(
        CODE,
        NAME,
        what=f"{called(module, 'the head')} takes {want} features, and the backbone gives {have}",
        why=f"both are usual ends of a backbone (ResNet-18 and -34: 512, ResNet-50 and larger: 2048); the head was written"
        f" for the one with {want}",
        fix=(
            f"model.{attribute(name)} = nn.Linear(model.{attribute(name)}.in_features, {out})   # reads the number from the head that it replaces",
            f"nn.Linear({have}, {out})",
        ),
    )


EXAMPLE = """
import torch
from torch import nn

class Small(nn.Module):  # ends in 512 features, as ResNet-34 does
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 512, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(512, 1000)

    def forward(self, images):
        return self.fc(self.features(images))

model = Small()
model.fc = nn.Linear(2048, 2)
model(torch.ones(1, 3, 8, 8))
"""
MENDED = """
import torch
from torch import nn

class Small(nn.Module):  # ends in 512 features, as ResNet-34 does
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 512, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(512, 1000)

    def forward(self, images):
        return self.fc(self.features(images))

model = Small()
model.fc = nn.Linear(model.fc.in_features, 2)
model(torch.ones(1, 3, 8, 8))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
