"""A number does not fit into the dtype it is written to."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-17", "dtype-overflow", "0.2"
TITLE = "RuntimeError: value cannot be converted to type at::Half without overflow"
RAISES = ("RuntimeError",)
NEEDLES = ("without overflow",)
PATTERNS = (
    r"value cannot be converted to type (?P<dtype>[\w:]+)(?: type)? without overflow(?:: (?P<value>[-+\d.e]+))?",
)
OLD = ("RuntimeError: value cannot be converted to type at::Half without overflow: -1e+09",)
WHY = "float16 ends at 65,504, uint8 at 255. A constant such as -1e9 or 1e-30 that was written for float32 does not fit; in attention it stands for minus infinity, which every float type has."
CHECK = "The constant of the line, and the dtype of the tensor it goes into (autocast makes float16)."
_LIMITS = {
    "float16": "-65,504 to 65,504",
    "bfloat16": "about -3.4e38 to 3.4e38",
    "uint8": "0 to 255",
    "int8": "-128 to 127",
    "int16": "-32,768 to 32,767",
    "int32": "-2,147,483,648 to 2,147,483,647",
}


def explain(event: Event) -> Iterator[Cause]:
    """The dtype and its range."""
    dtype = dtype_name(event.facts["dtype"].replace("at::Half", "Half").replace("at::BFloat16", "BFloat16"))
    limits = _LIMITS.get(dtype, "")
    value = event.facts.get("value", "")
    met = next((fact for fact in tensors_in_line(event) if fact.dtype == dtype), None)
    name = met.name if met else "x"
    is_float = "float" in dtype
    yield Cause(
        CODE,
        NAME,
        what=f"{value or 'a number'} does not fit into {dtype}" + (f", which holds {limits}" if limits else ""),
        why="the constant was written for float32, and autocast or .half() made the tensor smaller"
        if is_float
        else "the number lies outside of what the type holds",
        fix=(
            f"torch.finfo({name}.dtype).min   # in place of -1e9, for any float type",
            'float("-inf")   # for scores that go into a softmax',
        )
        if is_float
        else ("a larger type: dtype=torch.int64, or float32",),
        likelihood="certain",
    )


EXAMPLE = """
import torch

scores, mask = torch.zeros(2, 2, dtype=torch.float16), torch.eye(2).bool()
scores.masked_fill(mask, -1e9)
"""
MENDED = """
import torch

scores, mask = torch.zeros(2, 2, dtype=torch.float16), torch.eye(2).bool()
scores.masked_fill(mask, torch.finfo(scores.dtype).min)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
