"""`x.to(device)` was called and what it returns was thrown away."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._devices import device_of_type, dropped_move
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-04", "device-to-not-inplace", "0.2"
TITLE = "x.to(device) does not move x: tensors stay on the CPU"
RAISES = ("RuntimeError",)
NEEDLES = (
    "Expected all tensors to be on the same device",
    "is on CPU, but expected",
    "should be the same",
    "is not on the expected device",
)
PATTERNS = (
    r"Expected all tensors to be on the same device",
    r"is on CPU, but expected (?:it|them) to be on GPU",
    r"Input type \((?P<input>[\w.]+)\) and weight type \((?P<weight>[\w.]+)\) should be the same",
    r"Tensor on device [\w:]+ is not on the expected device (?!meta)[\w:]+!",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`.to(device)` and `.cuda()` of a tensor return a tensor on that device and leave the one that was asked as it is. Of a"
    " module they move the parameters in place (and return the module), which is why `model.to(device)` alone is enough and"
    ' `images.to(device)` alone does nothing. The direction is the word in the brackets: `x.to("cpu")` gives a copy on the CPU.'
)
CHECK = "`x.device` after the line; a statement that is only `x.to(...)` or `x.cuda()`."


def explain(event: Event) -> Iterator[Cause]:
    """Only where such a statement stands in the user's line, or in the function around it where the frames are alive."""
    facts = event.facts
    if facts.get("weight") and device_of_type(facts["input"]) == device_of_type(facts["weight"]):
        return
    name = dropped_move(event)
    if not name:
        return
    yield Cause(
        CODE,
        NAME,
        what=f"{name} was not moved: what {name}.to(...) returns was not kept",
        why="a module moves in place, a tensor does not: .to() and .cuda() of a tensor return a copy",
        fix=(f"{name} = {name}.to(device)",),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 2).to("cuda")
images = torch.ones(1, 2)
images.to("cuda"); model(images)
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 2).to("cuda")
images = torch.ones(1, 2)
images = images.to("cuda"); model(images)
"""
REQUIRES = ("cuda",)
MESSAGE = """Traceback (most recent call last):
  File "train.py", line 6, in <module>
    images.to("cuda"); model(images)
  File "/usr/lib/python3/site-packages/torch/nn/modules/linear.py", line 134, in forward
    return F.linear(input, self.weight, self.bias)
RuntimeError: Expected all tensors to be on the same device, but got mat1 is on cpu, different from other tensors on cuda:0 (when checking argument in method wrapper_CUDA_addmm)
"""
