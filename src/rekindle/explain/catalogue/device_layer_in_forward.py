"""A layer with weights is built inside `forward`."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._devices import new_layer
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-03", "device-layer-in-forward", "0.2"
TITLE = "nn.BatchNorm2d(96)(x) in forward: tensors on two devices, or a layer that is never trained"
RAISES = ("RuntimeError", "FakeTensorDeviceMismatchError")
NEEDLES = (
    "Expected all tensors to be on the same device",
    "but expected it to be on GPU",
    "should be the same",
)
PATTERNS = (
    r"Expected all tensors to be on the same device",
    r"is on CPU, but expected (?:it|them) to be on GPU",
    r"Input type \(torch\.cuda\.\w+\) and weight type \(torch\.\w+\) should be the same",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`nn.Linear(...)` makes new random weights each time that it runs, on the CPU. Built in `forward`, the layer is not part of"
    " the model: `model.to(device)` does not reach it, the optimizer does not know it, `state_dict` does not hold it. On a CPU"
    " nothing is raised, and each call computes with other weights."
)
CHECK = "`print(model)` does not list the layer; `nn.<Layer>(` stands in `forward`."


def explain(event: Event) -> Iterator[Cause]:
    """Only where the user's line builds a layer and calls it, or a module ran that the model does not hold."""
    kind = new_layer(event)
    modules = event.live.modules if event.live else ()
    strange = len(modules) > 1 and not modules[-1].name
    if not kind and not strange:
        return
    kind = kind or modules[-1].kind
    outer = f" of {modules[0].kind}" if modules and modules[0].kind != kind else ""
    name = kind.lower().rstrip("123d") or "layer"
    yield Cause(
        CODE,
        NAME,
        what=f"forward{outer} builds a new {kind}, which model.to(device) never reached",
        why="a layer made in forward is on the CPU, has new random weights in each call, is not trained and not saved",
        fix=(
            f"self.{name} = nn.{kind}(...)   # in __init__, after super().__init__()",
            f"x = self.{name}(x)   # in forward",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 96, 3)

    def forward(self, x):
        return nn.BatchNorm2d(96)(self.conv(x))

Net().to("cuda")(torch.ones(2, 3, 8, 8, device="cuda"))
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 96, 3)
        self.norm = nn.BatchNorm2d(96)

    def forward(self, x):
        return self.norm(self.conv(x))

Net().to("cuda")(torch.ones(2, 3, 8, 8, device="cuda"))
"""
REQUIRES = ("cuda",)
MESSAGE = """Traceback (most recent call last):
  File "train.py", line 13, in <module>
    Net().to("cuda")(torch.ones(2, 3, 8, 8, device="cuda"))
  File "/usr/lib/python3/site-packages/torch/nn/modules/module.py", line 1786, in _call_impl
    return forward_call(*args, **kwargs)
  File "train.py", line 11, in forward
    return nn.BatchNorm2d(96)(self.conv(x))
  File "/usr/lib/python3/site-packages/torch/nn/modules/module.py", line 1786, in _call_impl
    return forward_call(*args, **kwargs)
  File "/usr/lib/python3/site-packages/torch/nn/functional.py", line 2822, in batch_norm
    return torch.batch_norm(
RuntimeError: Expected all tensors to be on the same device, but got weight is on cpu, different from other tensors on cuda:0 (when checking argument in method wrapper_CUDA__native_batch_norm)
"""
