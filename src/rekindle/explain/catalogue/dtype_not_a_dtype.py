"""A dtype was given as a text or as NumPy's."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-19", "dtype-not-a-dtype", "0.2"
TITLE = "TypeError: ones(): argument 'dtype' must be torch.dtype, not str"
RAISES = ("TypeError",)
NEEDLES = (
    "must be torch.dtype, not ",
    "new() received an invalid combination of arguments",
    "torch.FloatTensor constructor",
    "dtype=torch.dtype",
)
PATTERNS = (
    r"(?P<call>\w{1,60})\(\): argument 'dtype'(?: \(position \d+\))? must be torch\.dtype, not (?P<got>[\w.]+)",
    r"(?P<new>new)\(\) received an invalid combination of arguments - got \([^)\n]{0,200}(?:dtype|device)=",
)
OLD: tuple[str, ...] = ()
WHY = "`torch.float32` is an object of its own, neither the text `float32` nor `numpy.float32`. The class `torch.Tensor(...)` takes no dtype at all: it always makes the default float type; `torch.tensor(...)` does."
CHECK = "What is given as `dtype=`; a value from a config file is a text."


def explain(event: Event) -> Iterator[Cause]:
    """What was given; the class Tensor is told apart."""
    if event.facts.get("new"):
        yield Cause(
            CODE,
            NAME,
            what="torch.Tensor was given a dtype or device, and takes none",
            why="the class makes a tensor of the default type; the function torch.tensor, in small letters, takes a dtype",
            fix=("torch.tensor(data, dtype=torch.float32)",),
            likelihood="certain",
        )
        return
    got = event.facts["got"]
    kind = {
        "str": "a text",
        "type": "a class, such as numpy.float32 or float's like",
        "numpy.dtype": "NumPy's dtype",
    }.get(got, got)
    yield Cause(
        CODE,
        NAME,
        what=f"the dtype of {event.facts['call']} is {kind if got != 'type' else 'a class (numpy.float32?)'}, not torch's",
        why="torch's dtypes are objects of their own",
        fix=(
            'getattr(torch, "float32")   # a name from a config file, checked against a list of yours',
            f"torch.{event.facts['call']}(..., dtype=torch.float32)",
        )
        if got == "str"
        else (
            f"torch.{event.facts['call']}(..., dtype=torch.float32)",
            "torch.from_numpy(array)   # keeps the array's type",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

config = {"dtype": "float32"}
torch.ones(3, dtype=config["dtype"])
"""
MENDED = """
import torch

config = {"dtype": "float32"}
torch.ones(3, dtype=getattr(torch, config["dtype"]))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
