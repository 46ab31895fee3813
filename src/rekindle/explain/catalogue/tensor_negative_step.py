"""A tensor was to be turned round with a negative step."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-23", "tensor-negative-step", "0.2"
TITLE = "ValueError: step must be greater than zero"
RAISES = ("ValueError",)
NEEDLES = ("step must be greater than zero",)
PATTERNS = (r"^(?:ValueError: )?step must be greater than zero$",)
OLD: tuple[str, ...] = ()
WHY = "Slices of tensors go forward only. `torch.flip` turns a dimension round; unlike NumPy's negative step it copies."
CHECK = "The slice of the line: `[::-1]`."


def explain(event: Event) -> Iterator[Cause]:
    """Said only of slices: by the line, where it is known."""
    code = code_of(event)
    if code and ":-" not in code.replace(" ", "") and "slice" not in code:
        return
    if any(not frame.is_users and "torch" not in frame.path for frame in event.frames[-1:]):
        return
    met = next((fact for fact in tensors_in_line(event) if fact.device != "numpy"), None)
    name = met.name if met else "x"
    yield Cause(
        CODE,
        NAME,
        what=f"a slice of {name if met else 'a tensor'} has a negative step",
        why="tensors are sliced forward only",
        fix=(
            f"{name}.flip(0)   # turns the first dimension round",
            f"{name}[..., torch.arange({name}.shape[-1] - 1, -1, -1)]   # the last one, by an index",
        ),
        likelihood="certain" if met or event.live else "possible",
    )


EXAMPLE = """
import torch

x = torch.arange(5)
x[::-1]
"""
MENDED = """
import torch

x = torch.arange(5)
x.flip(0)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
