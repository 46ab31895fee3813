"""A tensor made under inference_mode is changed or trained afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-25", "grad-inference-tensor", "0.2"
TITLE = "Inplace update to inference tensor outside InferenceMode is not allowed."
RAISES = ("RuntimeError",)
NEEDLES = ("Inplace update to inference tensor", "on inference tensor outside InferenceMode")
PATTERNS = (
    r"Inplace update to inference tensor outside InferenceMode",
    r"Setting requires_grad=(?P<flag>True) on inference tensor outside InferenceMode",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`torch.inference_mode()` leaves out what autograd needs, for good: tensors made in it can be read, never trained or changed afterwards."
    " A buffer or cache that was first made in an evaluation (rotary tables, running statistics, a lazily made layer) is the usual case."
)
CHECK = "`x.is_inference()`; what is made at its first use, and was that use an evaluation?"


def explain(event: Event) -> Iterator[Cause]:
    """The tensor, where its name is known."""
    met = next(iter(tensors_in_line(event)), None)
    name = met.name if met else "x"
    done = "is to require gradients" if event.facts.get("flag") else "is changed in place"
    yield Cause(
        CODE,
        NAME,
        what=f"{name if met else 'a tensor'} was made under inference_mode and {done}",
        why="such a tensor keeps no record that autograd could use; made at its first use in an evaluation, it is met again in training",
        fix=(
            "with torch.no_grad():   # in place of torch.inference_mode(), around the evaluation",
            f"{name} = {name}.clone()   # outside of inference_mode: an ordinary tensor",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

with torch.inference_mode():
    cache = torch.zeros(3)
cache += 1
"""
MENDED = """
import torch

with torch.no_grad():
    cache = torch.zeros(3)
cache += 1
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
