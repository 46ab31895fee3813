"""The input of a convolution has another dtype than its weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rekindle.explain.catalogue._dtypes import LOW, name_of_dtype, place_of
from rekindle.explain.catalogue._modules import called, first_input, running
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-03", "dtype-conv-input", "0.2"
TITLE = "Input type (double) and bias type (float) should be the same"
RAISES = ("RuntimeError",)
NEEDLES = ("Input type (", "expected scalar type ")
PATTERNS = (
    r"Input type \((?P<input>[\w.: ]+)\) and (?:weight|bias) type \((?P<weight>[\w.: ]+)\) should be the same",
    r"expected scalar type (?P<found>\w+) but found (?P<parameter>\w+)",
)
OLD = (
    "RuntimeError: Input type (torch.cuda.ByteTensor) and weight type (torch.cuda.FloatTensor) should be the same",
    "RuntimeError: Input type (torch.DoubleTensor) and weight type (torch.FloatTensor) should be the same",
)
WHY = (
    "A convolution does not convert its input. Images read as they are have whole numbers from 0 to 255 (`uint8`), NumPy's"
    " numbers are float64, and a model made `.half()` wants half. The same sentence with `cuda` on one side only is about"
    " devices."
)
CHECK = "`x.dtype`, `x.device`, `x.min()`, `x.max()`: values up to 255 mean that scaling is missing too."


def explain(event: Event) -> Iterator[Cause]:
    """Both dtypes and the conversion that belongs to them; the same dtype on two devices is something else."""
    facts = defaultdict(str, event.facts)
    left, right = facts["input"], facts["weight"]
    if not left:
        have, want = dtype_name(facts["found"]), dtype_name(facts["parameter"])
        if place_of(event, have, want) != "convolution":
            return
    else:
        have, want = dtype_name(left), dtype_name(right)
    if have == want:
        return  # two devices: device-input-weight
    module = running(event)
    given = first_input(module)
    two_devices = ("cuda" in left.lower()) != ("cuda" in right.lower())
    name = name_of_dtype(event, have)
    seen = (
        f", with values from {given.low:g} to {given.high:g}"
        if given is not None and given.low is not None and given.high is not None
        else ""
    )
    fix: tuple[str, ...]
    if have == "uint8":
        why = f"images were read as whole numbers from 0 to 255{seen} and never scaled"
        fix = (
            f"{name} = {name}.float() / 255   # float32 from 0 to 1",
            "transforms.ToTensor()   # does it while loading, and puts the channels first",
        )
    elif LOW & {have, want}:
        why = "one side is in half precision: the model was cast by hand, or a tensor left autocast"
        fix = (
            'with torch.autocast("cuda", dtype=torch.bfloat16): model(x)   # in place of model.half(): casts where it should',
            f"{name} = {name}.to(torch.{want})   # or the input as the weights are",
        )
    elif have == "float64":
        why = "arrays of NumPy are float64; the weights are float32"
        fix = (f"{name} = {name}.float()", 'torch.from_numpy(array.astype("float32"))   # where it is made')
    else:
        why = f"the input is {have} and the weights are {want}"
        fix = (f"{name} = {name}.to(torch.{want})",)
    if two_devices:
        why += "; one of the two is on the GPU and the other is not, which has to be mended too"
        fix = (*fix, "x = x.to(next(model.parameters()).device)   # the device as well")
    yield Cause(
        CODE,
        NAME,
        what=f"{called(module, 'a convolution')} has {want} weights and was given {have}",
        why=why,
        fix=fix,
        likelihood="likely" if two_devices else "certain",
    )


EXAMPLE = """
import torch
from torch import nn

images = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
nn.Conv2d(1, 6, 5)(images)
"""
MENDED = """
import torch
from torch import nn

images = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
nn.Conv2d(1, 6, 5)(images.float() / 255)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
