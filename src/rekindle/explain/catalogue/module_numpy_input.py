"""A NumPy array, a list or an image was given to a layer."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._not_tensors import NEEDLES as _NEEDLES
from rekindle.explain.catalogue._not_tensors import PATTERNS as _PATTERNS
from rekindle.explain.catalogue._not_tensors import given_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-07", "module-numpy-input", "0.2"
TITLE = "TypeError: linear(): argument 'input' (position 1) must be Tensor, not numpy.ndarray"
RAISES = ("TypeError", "AttributeError")
NEEDLES = _NEEDLES
PATTERNS = _PATTERNS
OLD = (
    "TypeError: conv2d(): argument 'input' (position 1) must be Tensor, not numpy.ndarray",
    "TypeError: conv2d() received an invalid combination of arguments - got (numpy.ndarray, Parameter, Parameter, tuple, tuple, tuple, int), but expected one of:",
)
WHY = "Layers compute on tensors. Arrays become one by `torch.from_numpy`, which shares the memory and keeps the dtype: NumPy's default is float64, a model's is float32. A list of tensors is stacked, an image goes through a transform."
CHECK = "`type(x)` in front of the call."


def explain(event: Event) -> Iterator[Cause]:
    """What it was, and which layer got it."""
    given = given_of(event)
    if given.got in {"tuple", "NoneType", "OrderedDict"} or "Parameter" in given.got:
        return  # module-tuple-input, module-forward-none
    if given.attribute and not given.is_in_layer:
        return  # tensor-numpy-attribute
    if not given.attribute and not _is_plain(given.got):
        return
    if given.got in {"int", "float", "bool", "str", "dict", "Tensor"} and not given.is_in_layer:
        return  # a wrong call of a function, not the input of a model
    live = event.live.find_tensor("x", "input", "inputs", "images", "image", "batch") if event.live else None
    name = live.name if live is not None and live.device == "numpy" and live.name != "input" else "x"
    kind = {"numpy.ndarray": "a NumPy array", "list": "a list", "str": "a text", "dict": "a dictionary"}.get(
        given.got, f"an object of the class {given.got}"
    )
    fixes = {
        "numpy.ndarray": (f"model(torch.from_numpy({name}).float())   # .float(): NumPy's default is float64",),
        "list": ("torch.tensor(x, dtype=torch.float32)   # of numbers", "torch.stack(x)   # of tensors of one shape"),
        "dict": (
            "model(**batch)   # by their names, if forward takes them so",
            'model(batch["x"])   # the tensor in it',
        ),
        "str": ('tokens = tokenizer(text, return_tensors="pt")   # texts become numbers first',),
    }
    images = ("transforms.ToTensor()(image).unsqueeze(0)   # from torchvision; a batch of one",)
    yield Cause(
        CODE,
        NAME,
        what=f"{given.taker} got {kind}, not a tensor",
        why="layers compute on tensors; arrays, lists and images are converted first",
        fix=fixes.get(
            given.got, images if "Image" in given.got else (f"print(type({name}))   # in front of the call",)
        ),
        likelihood="certain" if given.got == "numpy.ndarray" else "likely",
    )


def _is_plain(got: str) -> bool:
    return (
        got in {"numpy.ndarray", "list", "str", "dict", "int", "float", "bool"}
        or "Image" in got
        or "DataFrame" in got
        or "Series" in got
    )


EXAMPLE = """
import numpy as np
from torch import nn

model = nn.Sequential(nn.Linear(2, 2))
model(np.ones((1, 2)))
"""
MENDED = """
import numpy as np
import torch
from torch import nn

model = nn.Sequential(nn.Linear(2, 2))
model(torch.from_numpy(np.ones((1, 2))).float())
"""
REQUIRES = ("numpy",)
MESSAGE = "TypeError: linear(): argument 'input' (position 1) must be Tensor, not numpy.ndarray"
