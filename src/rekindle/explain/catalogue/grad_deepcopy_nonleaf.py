"""A copy of something that holds a computed tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-08", "grad-deepcopy-nonleaf", "0.2"
TITLE = "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment"
RAISES = ("RuntimeError",)
NEEDLES = ("support the deepcopy protocol",)
PATTERNS = (r"support the deepcopy protocol at the moment",)
OLD = (
    "RuntimeError: Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment",
)
WHY = (
    "`copy.deepcopy` copies a parameter, and not a tensor that was computed: it would have to copy the graph behind it. If it is a"
    " module that is copied, it keeps such a tensor as an attribute: features that a hook stored, a loss that was kept, or a"
    " weight under the old `weight_norm`."
)
CHECK = "`[name for m in model.modules() for name, v in vars(m).items() if isinstance(v, torch.Tensor) and v.grad_fn is not None]`."


def explain(event: Event) -> Iterator[Cause]:
    """What was copied, where the frames tell."""
    kind = ""
    if event.live:
        kind = next(
            (
                frame.kinds["x"]
                for frame in event.live.frames
                if frame.frame.function == "deepcopy" and "x" in frame.kinds
            ),
            "",
        )
    found = re.search(r"deepcopy\(([\w.]+)\)", code_of(event))
    name = found[1] if found else "it"
    is_tensor = kind in {"Tensor", ""}
    yield Cause(
        CODE,
        NAME,
        what=f"{name} was to be copied, and it {'is a computed tensor' if kind == 'Tensor' else f'({kind}) holds a computed tensor' if kind else 'is or holds a computed tensor'}",
        why="only parameters and tensors made by hand can be deep-copied; this one has a graph behind it",
        fix=(
            *((f"{name}.detach().clone()   # of a tensor",) if is_tensor else ()),
            *(
                ("self.features = features.detach()   # what a module keeps, without its graph",)
                if kind != "Tensor"
                else ()
            ),
            *(
                (
                    "torch.nn.utils.parametrizations.weight_norm(layer)   # in place of the old torch.nn.utils.weight_norm",
                )
                if kind != "Tensor"
                else ()
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import copy
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        self.features = self.fc(x)
        return self.features

model = Net()
model(torch.ones(1, 2))
best = copy.deepcopy(model)
"""
MENDED = """
import copy
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        features = self.fc(x)
        self.features = features.detach()
        return features

model = Net()
model(torch.ones(1, 2))
best = copy.deepcopy(model)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
