"""`requires_grad` is set on a computed tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-12", "grad-nonleaf-flag", "0.2"
TITLE = "you can only change requires_grad flags of leaf variables."
RAISES = ("RuntimeError",)
NEEDLES = ("you can only change requires_grad flags of leaf variables",)
PATTERNS = (r"you can only change requires_grad flags of leaf variables",)
OLD = ("RuntimeError: you can only change requires_grad flags of leaf variables.",)
WHY = (
    "Whether a computed tensor needs gradients follows from what it was computed from. The flag can be set on leaves alone:"
    " parameters, and tensors made by hand. To cut the graph at a tensor, detach it; to freeze a layer, set the flag of its"
    " parameters."
)
CHECK = "`x.grad_fn` is not None: it was computed."


def explain(event: Event) -> Iterator[Cause]:
    """With the name from the user's line."""
    found = re.search(r"([A-Za-z_][\w.]*)\.requires_grad(?:_\(|\s*=)", code_of(event))
    name = found[1] if found else "y"
    yield Cause(
        CODE,
        NAME,
        what=f"requires_grad of {name} cannot be set: it was computed"
        if found
        else "requires_grad was set on a computed tensor",
        why="only leaves have that flag: parameters, and tensors made by hand; a computed tensor takes it from its inputs",
        fix=(
            f"{name} = {name}.detach()   # to cut the graph here",
            "for p in layer.parameters(): p.requires_grad_(False)   # to freeze a layer",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

weight = torch.ones(3, requires_grad=True)
features = weight * 2
features.requires_grad = False
"""
MENDED = """
import torch

weight = torch.ones(3, requires_grad=True)
features = weight * 2
features = features.detach()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
