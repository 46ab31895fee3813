"""A list, tuple or dict of tensors is to be moved as if it were a tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._words import listed, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-05", "device-list-no-cuda", "0.2"
TITLE = "AttributeError: 'list' object has no attribute 'cuda' (or 'to')"
RAISES = ("AttributeError",)
NEEDLES = ("object has no attribute 'cuda'", "object has no attribute 'to'")
PATTERNS = (
    r"'(?P<kind>list|tuple|dict|set|str|int|float|OrderedDict|defaultdict|BatchEncoding|UserDict|NoneType)' object has no attribute '(?P<method>cuda|to)'",
)
OLD = ("AttributeError: 'list' object has no attribute 'cuda'",)
WHY = (
    "Only tensors and modules can be moved. A loader gives a list, a tuple or a dict where the dataset does: the targets of"
    " detection, the output of a tokenizer, several inputs. Lists of numbers stay lists if the collate function does not make"
    " tensors of them."
)
CHECK = "`type(batch)` and the types of what is in it."


_DEVICE = re.compile(r"\.to\([^)]*(?:device|cuda|cpu|mps|xpu|gpu|rank|torch|dtype)", re.IGNORECASE)


def explain(event: Event) -> Iterator[Cause]:
    """By the class of the thing; its name is taken from the user's line. Other methods called `to` are left alone."""
    kind, method = event.facts["kind"], event.facts["method"]
    code = code_of(event)
    found = re.search(rf"([A-Za-z_][\w.\[\]'\"]*)\.{method}\(", code)
    name = found[1] if found else "batch"
    if method == "to" and code and not _DEVICE.search(code):
        return
    held = [fact for fact in event.live.find_tensors() if fact.name.startswith(f"{name}[")] if event.live else []
    seen = f": {listed([f'{fact.name} {shape_text(fact.shape)}' for fact in held])}" if held else ""
    nested = f"{name} = rekindle.to_device({name}, device)   # lists, tuples and dicts in any nesting"
    fix: tuple[str, ...]
    if kind in {"dict", "OrderedDict", "defaultdict", "BatchEncoding", "UserDict"}:
        fix = (
            f"{name} = {{key: value.to(device) for key, value in {name}.items()}}   # if every value is a tensor",
            nested,
        )
    elif kind in {"list", "tuple", "set"}:
        fix = (
            f"{name} = [tensor.to(device) for tensor in {name}]",
            f"{name} = torch.stack({name}).to(device)   # if all have one shape and make a batch",
            nested,
        )
    elif kind == "NoneType":
        fix = (f"print(type({name}))   # a function without return gives None",)
    else:
        fix = (f"torch.tensor({name}).to(device)   # in __getitem__ of the dataset, so that the loader gives tensors",)
    yield Cause(
        CODE,
        NAME,
        what=f"{name} is a {kind}, which has no .{method}(){seen}",
        why="tensors and modules can be moved; a container has to be moved member by member"
        if kind not in {"str", "int", "float", "NoneType"}
        else "tensors and modules can be moved; this is neither",
        fix=fix,
        likelihood="likely" if kind not in {"str", "int", "float", "NoneType"} else "possible",
    )


EXAMPLE = """
import torch

boxes = [torch.ones(2, 4), torch.ones(3, 4)]
boxes.to("cpu")
"""
MENDED = """
import torch

boxes = [torch.ones(2, 4), torch.ones(3, 4)]
boxes = [tensor.to("cpu") for tensor in boxes]
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
