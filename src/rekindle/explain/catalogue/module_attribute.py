"""The model has no layer or attribute of that name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event
from rekindle.keys import near_names

CODE, NAME, SINCE = "RK-MISC-06", "module-attribute", "0.2"
TITLE = "AttributeError: 'Net' object has no attribute 'fc2'"
RAISES = ("AttributeError", "ModuleAttributeError")
NEEDLES = ("object has no attribute '",)
PATTERNS = (r"'(?P<kind>\w+)' object has no attribute '(?P<name>\w+)'",)
OLD = ("torch.nn.modules.module.ModuleAttributeError: 'Net' object has no attribute 'fc2'",)
WHY = (
    "The attribute was never set: it is misspelled, set only under a condition, set after it is used, or the model is another"
    " architecture. The last layer is `fc` in ResNet, `classifier` in VGG, DenseNet, EfficientNet and MobileNet, `heads.head` in"
    " torchvision's ViT, `head` in timm's."
)
CHECK = "`[name for name, _ in model.named_children()]`."
_HEADS = {
    "VGG": "classifier[6]", "AlexNet": "classifier[6]", "DenseNet": "classifier", "MobileNetV2": "classifier[1]",
    "MobileNetV3": "classifier[3]", "EfficientNet": "classifier[1]", "ConvNeXt": "classifier[2]", "SqueezeNet": "classifier[1]",
    "VisionTransformer": "heads.head", "SwinTransformer": "head", "ResNet": "fc", "Inception3": "fc", "GoogLeNet": "fc", "RegNet": "fc",
}  # fmt: skip
_WRAPPERS = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"}


def explain(event: Event) -> Iterator[Cause]:
    """Only where torch's Module looked for it; live with the near names among its layers and parameters."""
    kind, name = event.facts["kind"], event.facts["name"]
    last = event.frames[-1] if event.frames else None
    looked = (
        last is not None
        and last.function == "__getattr__"
        and "torch/nn/modules/module.py" in last.path.replace("\\", "/")
    )
    if (
        not (looked or event.kind == "ModuleAttributeError")
        or kind in _WRAPPERS
        or name.startswith("_")
        or name in {"transforms", "ToTensor", "Normalize"}
    ):
        return
    there = _there(event)
    near = near_names(name, there)
    head = _HEADS.get(kind, "") if name in {"fc", "classifier", "head", "heads", "last_linear"} else ""
    variable = _variable(event, name)
    fix = [f"{variable}.{near[0]}"] if near else []
    if head and head.partition("[")[0].partition(".")[0] != name:
        fix.insert(
            0, f"{variable}.{head} = nn.Linear({variable}.{head}.in_features, classes)   # the last layer of a {kind}"
        )
    if not fix:
        fix = [f"self.{name} = ...   # in __init__, after super().__init__() and outside of any if"]
    fix.append(f"print([name for name, _ in {variable}.named_children()])   # what it has")
    yield Cause(
        CODE,
        NAME,
        what=f"there is no {name} in {kind}",
        why=(f"it has {listed(there, 6)}" if there else "it was never set")
        + (
            "; nearest names: " + ", ".join(near)
            if near
            else "; misspelled, set under a condition that did not hold, or another architecture"
        ),
        fix=tuple(fix),
        likelihood="certain",
    )


def _there(event: Event) -> list[str]:
    """Return the names of children and parameters that torch's lookup held."""
    frame = event.live.frames[-1] if event.live and event.live.frames else None
    if frame is None or frame.frame.function != "__getattr__":
        return []
    return [key for mapping in frame.mappings if mapping.name in {"modules", "_parameters"} for key in mapping.keys]


def _variable(event: Event, name: str) -> str:
    found = re.search(rf"([A-Za-z_][\w.]*?)\.{name}\b", code_of(event))
    return found[1] if found else "model"


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc2(x)

Net()(torch.ones(1, 2))
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc1(x)

Net()(torch.ones(1, 2))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
