"""Two dtypes that met: what the same words of torch mean, by where they were said.

`expected scalar type Double but found Float` is said by matrix products, convolutions, losses and index operations
alike, in old releases by nearly all. One place decides (`place_of`), so that each entry speaks of its own case only.
"""

from __future__ import annotations

from typing import Literal

from rekindle.explain.catalogue._modules import is_in, running, tensors_in_line
from rekindle.explain.event import Event

__all__ = ["LOW", "Place", "is_integer", "name_of_dtype", "place_of"]

Place = Literal["convolution", "target", "index", "low", "product"]

LOW = frozenset({"float16", "bfloat16"})

_INTEGERS = frozenset({"int64", "int32", "int16", "int8", "uint8", "bool"})


def place_of(event: Event, wanted: str, found: str, argument: str = "") -> Place:
    """Return which case two dtypes are.

    Args:
        event: what happened.
        wanted: the dtype that torch wanted, by torch's name.
        found: the dtype that it found.
        argument: the argument's name, where an old message has it.
    """
    module = running(event)
    if (module is not None and "Conv" in module.kind) or is_in(event, "_conv_forward", "torch/nn/modules/conv.py"):
        return "convolution"
    if argument in {"index", "indices"}:
        return "index"
    if "scalar type" in event.message and wanted in {"int64", "int32"} and argument in {"", "target"}:
        return "target"
    return "low" if LOW & {wanted, found} else "product"


def name_of_dtype(event: Event, dtype: str) -> str:
    """Return the name of a tensor of that dtype that the user's line names, else ``x``."""
    return next((fact.name for fact in tensors_in_line(event) if fact.dtype == dtype), "x")


def is_integer(dtype: str) -> bool:
    """Whether the dtype has whole numbers or truth values."""
    return dtype in _INTEGERS
