"""A hook or retain_grad was asked of a tensor that has no gradient."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-28", "grad-hook-no-grad", "0.2"
TITLE = "cannot register a hook on a tensor that doesn't require gradient"
RAISES = ("RuntimeError",)
NEEDLES = ("cannot register a hook on a tensor", "can't retain_grad on Tensor")
PATTERNS = (
    r"cannot register a (?P<hook>hook) on a tensor that doesn't require gradient",
    r"can't retain_grad on Tensor that has requires_grad=False",
)
OLD: tuple[str, ...] = ()
WHY = "A hook on a tensor runs when its gradient arrives. Under `no_grad`, after `detach`, and for plain data there is none. Grad-CAM code that runs its model under `no_grad`, or with frozen weights and an input without the flag, ends here."
CHECK = "`x.requires_grad` and `torch.is_grad_enabled()` at that line."


def explain(event: Event) -> Iterator[Cause]:
    """The tensor, and what takes its gradient away."""
    met = next((fact for fact in tensors_in_line(event) if not fact.requires_grad), None)
    name = met.name if met else "x"
    what = "a hook was to be put on" if event.facts.get("hook") else "a gradient was to be kept of"
    yield Cause(
        CODE,
        NAME,
        what=f"{what} {name if met else 'a tensor'} that gets no gradient",
        why="it is plain data, was detached, or was made under torch.no_grad()",
        fix=(
            f"{name}.requires_grad_()   # in front of the forward pass, also where all weights are frozen",
            "the forward pass outside of torch.no_grad() and inference_mode()",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

image = torch.ones(1, 3)
with torch.no_grad():
    features = nn.Linear(3, 2)(image)
features.register_hook(print)
"""
MENDED = """
import torch
from torch import nn

image = torch.ones(1, 3)
features = nn.Linear(3, 2)(image)
features.register_hook(print)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
