"""Half precision meets float32: a tensor left autocast, or one side was cast by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rekindle.explain.catalogue._dtypes import LOW, name_of_dtype, place_of
from rekindle.explain.catalogue._modules import called, running
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-13", "dtype-autocast-leak", "0.2"
TITLE = "mat1 and mat2 must have the same dtype, but got BFloat16 and Float"
RAISES = ("RuntimeError",)
NEEDLES = (
    "must have the same dtype",
    "to have the same dtype",
    "to have same dtype",
    "expected scalar type ",
    "Found dtype ",
)
PATTERNS = (
    r"mat1 and mat2 must have the same dtype, but got (?P<a>\w+) and (?P<b>\w+)",
    r"expected m1 and m2 to have the same dtype, but got: (?P<a>[\w: ]+?) != (?P<b>[\w:]+(?: int)?)",
    r"expected both vectors to have same dtype, but found (?P<a>\w+) and (?P<b>\w+)",
    r"to have the same dtype, but got query\.dtype: (?P<a>[\w:]+) key\.dtype: (?P<b>[\w:]+)",
    r"expected scalar type (?P<a>\w+) but found (?P<b>\w+)",
    r"Found dtype (?P<b>\w+) but expected (?P<a>\w+)",
)
OLD = (
    "RuntimeError: expected scalar type BFloat16 but found Float",
    "RuntimeError: expected scalar type Half but found Float",
)
WHY = (
    "Inside `torch.autocast` products give half precision, and inside it that is taken care of. A tensor that was made there"
    " and is used outside of it meets float32 weights as it is. The other way is a model that was cast by hand (`.half()`,"
    " `.bfloat16()`, `torch_dtype=`) and inputs that were not, or both casts and autocast at once."
)
CHECK = "Both dtypes; is the line inside the `with torch.autocast(...)` block?"


def explain(event: Event) -> Iterator[Cause]:
    """Whether the weights or the input are in half precision, where the order or the live layer tells."""
    facts = defaultdict(str, event.facts)
    a, b = dtype_name(facts["a"]), dtype_name(facts["b"])
    low = next((dtype for dtype in (a, b) if dtype in LOW), "")
    if not low or a == b or place_of(event, a, b) not in {"low", "product"}:
        return
    module = running(event)
    weights = (
        next((fact.dtype for fact in module.parameters), "")
        if module
        else b
        if facts["a"] and "mat1" in event.message
        else ""
    )
    layer = called(module, "a product")
    name = name_of_dtype(event, low)
    inside = "with torch.autocast(...):   # around the whole forward, this line too"
    if weights == low:
        why = f"the weights are {low}: the model was cast by hand, or loaded so, and the input was not"
        fix = (
            f"x = x.to(torch.{low})   # the input as the weights are",
            "model.float()   # or the weights back, and torch.autocast for speed",
        )
    else:
        why = f"a tensor in {low} (made under autocast, or cast by hand) is used outside of it, where the weights are float32"
        fix = (f"{name} = {name}.float()   # when leaving autocast", inside)
    yield Cause(
        CODE, NAME, what=f"{a} meets {b} in {layer}", why=why, fix=fix, likelihood="certain" if weights else "likely"
    )


EXAMPLE = """
import torch
from torch import nn

body, head = nn.Linear(2, 2), nn.Linear(2, 2)
with torch.autocast("cpu", torch.bfloat16):
    features = body(torch.ones(1, 2))
head(features)
"""
MENDED = """
import torch
from torch import nn

body, head = nn.Linear(2, 2), nn.Linear(2, 2)
with torch.autocast("cpu", torch.bfloat16):
    features = body(torch.ones(1, 2))
head(features.float())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
