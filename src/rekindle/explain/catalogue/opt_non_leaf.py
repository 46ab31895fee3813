"""The optimizer is to train a computed tensor."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-15", "opt-non-leaf", "0.2"
TITLE = "ValueError: can't optimize a non-leaf Tensor"
RAISES = ("ValueError",)
NEEDLES = ("can't optimize a non-leaf",)
PATTERNS = (r"can't optimize a non-leaf (?:Tensor|Variable)",)
OLD = ("ValueError: can't optimize a non-leaf Variable",)
WHY = (
    '`torch.randn(3, requires_grad=True) * 0.01` and `.to("cuda")` are results: the leaf is the tensor before, which nobody'
    " holds. An optimizer changes leaves."
)
CHECK = "`x.is_leaf`, `x.grad_fn`."


def explain(event: Event) -> Iterator[Cause]:
    """With the tensor's name, where the frames have it."""
    frame = event.live.user_frame if event.live else None
    held = [
        fact
        for fact in tensors_in_line(event)
        if fact.requires_grad and (frame is None or frame.kinds.get(fact.name) != "Parameter")
    ]
    name = held[0].name if held else "x"
    yield Cause(
        CODE,
        NAME,
        what=f"{held[0] if held else 'a tensor'} was computed, and an optimizer trains leaves",
        why="an operation after requires_grad=True (a factor, .to(device)) gives a new tensor; the leaf is the one before",
        fix=(
            f"{name} = {name}.detach().requires_grad_()   # a leaf with these values",
            "torch.nn.Parameter(torch.randn(3, device=device) * 0.01)   # compute first, then make it a parameter",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

noise = torch.ones(3, requires_grad=True) * 0.01
torch.optim.SGD([noise], lr=0.1)
"""
MENDED = """
import torch

noise = (torch.ones(3) * 0.01).requires_grad_()
torch.optim.SGD([noise], lr=0.1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
