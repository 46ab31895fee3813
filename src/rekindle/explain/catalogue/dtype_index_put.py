"""Values of another dtype are written into a tensor by an index."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-18", "dtype-index-put", "0.2"
TITLE = (
    "Index put requires the source and destination dtypes match, got Float for the destination and Half for the source."
)
RAISES = ("RuntimeError",)
NEEDLES = (
    "Index put requires the source and destination",
    "self and source expected to have the same dtype",
    "Source and destination tensors must have the same dtype",
)
PATTERNS = (
    r"Index put requires the source and destination dtypes match, got (?P<into>\w+) for the destination and (?P<value>\w+) for the source",
    r"(?P<call>index_\w+)\(\): self \((?P<into>\w+)\) and source \((?P<value>\w+)\) (?:must|expected to) have the same (?:scalar type|dtype)",
    r"(?P<call>index_\w+)\(\): self and source expected to have the same dtype, but got \(self\) (?P<into>\w+) and \(source\) (?P<value>\w+)",
)
OLD: tuple[str, ...] = ()
WHY = "Writing by a tensor of indices (or a mask) does not convert, a plain slice does. Under autocast it is the usual case: layers give float16 or bfloat16, and the tensor that collects them was made as float32 in front."
CHECK = "The dtypes of both sides; is the line under `autocast`?"


def explain(event: Event) -> Iterator[Cause]:
    """Both dtypes and the line that converts."""
    into, value = dtype_name(event.facts["into"]), dtype_name(event.facts["value"])
    half = {into, value} & {"float16", "bfloat16"}
    met = tensors_in_line(event)
    name = next((fact.name for fact in met if fact.dtype == into), "out")
    source = next((fact.name for fact in met if fact.dtype == value), "values")
    yield Cause(
        CODE,
        NAME,
        what=f"{value} values are written by index into {name if met else 'a tensor'} of {into}",
        why="autocast gives results of the smaller type, and writing by index does not convert"
        if half
        else "writing by index does not convert",
        fix=(
            f"{name}[index] = {source}.to({name}.dtype)",
            *(
                (f"{name} = torch.zeros(..., dtype={source}.dtype)   # or make it of that type in front",)
                if half
                else ()
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

out, values = torch.zeros(4, 2), torch.ones(2, 2, dtype=torch.bfloat16)
out[torch.tensor([0, 3])] = values
"""
MENDED = """
import torch

out, values = torch.zeros(4, 2), torch.ones(2, 2, dtype=torch.bfloat16)
out[torch.tensor([0, 3])] = values.to(out.dtype)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
