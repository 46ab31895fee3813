"""The batch is on one device and the model on another."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._devices import device_of_type
from rekindle.explain.catalogue._modules import called, first_input, running
from rekindle.explain.catalogue._words import dtype_name, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-01", "device-input-weight", "0.2"
TITLE = "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same"
RAISES = ("RuntimeError",)
NEEDLES = (
    "should be the same",
    "is on CPU, but expected",
    "Expected object of backend",
    "Expected object of type torch.",
)
PATTERNS = (
    r"Input type \((?P<input>[\w.]+)\) and (?P<which>weight|bias) type \((?P<weight>[\w.]+)\) should be the same",
    r"Expected object of type torch\.(?P<weight>cuda\.\w+|\w+Tensor) but found type torch\.(?P<input>cuda\.\w+|\w+Tensor) for argument #\d+ '(?:weight|input)'",
)
OLD = (
    (
        "RuntimeError: Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) should be the same or input"
        " should be a MKLDNN tensor and weight is a dense tensor"
    ),
    "RuntimeError: Input type (CUDAFloatType) and weight type (CPUFloatType) should be the same",
    "RuntimeError: Expected object of type torch.FloatTensor but found type torch.cuda.FloatTensor for argument #2 'weight'",
)
WHY = (
    "A layer computes where its weights are, and does not move its input. Either the model was never moved, or the batch was"
    " not, or `x.to(device)` was called and what it returns was thrown away: a module moves in place, a tensor does not."
)
CHECK = "`x.device` and `next(model.parameters()).device`."


def explain(event: Event) -> Iterator[Cause]:
    """Which side is where; one device with two dtypes is another entry."""
    have, want = device_of_type(event.facts["input"]), device_of_type(event.facts["weight"])
    if have == want or "mkldnn" in {have, want}:
        return
    if dtype_name(event.facts["input"]) != dtype_name(event.facts["weight"]):
        return  # dtype-conv-input says both
    module = running(event)
    layer = called(module, "a layer")
    fact = first_input(module)
    shown = f"{fact.name} {shape_text(fact.shape)}" if fact else "its input"
    yield Cause(
        CODE,
        NAME,
        what=f"the weights of {layer} are on {want} and {shown} is on {have}",
        why="the model was not moved to the device of the batch"
        if want == "cpu"
        else "the batch was not moved to the device of the model, or the result of .to(device) was not kept",
        fix=(
            "model.to(device)   # once, in front of the loop",
            "images = images.to(device)   # each batch; .to() gives a copy",
        )
        if want == "cpu"
        else ("images = images.to(device)   # each batch; .to() gives a copy", "labels = labels.to(device)"),
        likelihood="likely",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Conv2d(3, 6, 5)
images = torch.ones(16, 3, 32, 32).to("cuda")
model(images)
"""
MENDED = """
import torch
from torch import nn

device = "cuda"
model = nn.Conv2d(3, 6, 5).to(device)
images = torch.ones(16, 3, 32, 32).to(device)
model(images)
"""
REQUIRES = ("cuda",)
MESSAGE = "RuntimeError: Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same"
