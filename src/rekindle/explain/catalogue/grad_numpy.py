"""A tensor with a graph is to become a NumPy array."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-09", "grad-numpy", "0.2"
TITLE = "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
RAISES = ("RuntimeError",)
NEEDLES = ("Can't call numpy() on",)
PATTERNS = (r"Can't call numpy\(\) on (?:Tensor|Variable) that requires grad",)
OLD = ("RuntimeError: Can't call numpy() on Variable that requires grad. Use var.detach().numpy() instead.",)
WHY = (
    "The array would share memory with a tensor that is part of a graph, and writing into it would spoil the gradients unseen."
    " Plotting, metrics and `np.mean(losses)` call `numpy()` on what they are given."
)
CHECK = "`x.requires_grad`, `x.grad_fn`, `x.device`."


def explain(event: Event) -> Iterator[Cause]:
    """With the tensor's name; a list of losses asks for `.item()`."""
    found = re.search(r"([A-Za-z_]\w*)\.numpy\(", code_of(event))
    fact = next((fact for fact in tensors_in_line(event) if fact.requires_grad), None)
    frame = event.live.user_frame if event.live else None
    listed_ones = [one.name for one in frame.tensors if one.requires_grad and "[" in one.name] if frame else []
    name = found[1] if found else fact.name if fact else "x"
    if not found and fact is None and listed_ones:
        name = listed_ones[0].partition("[")[0]
        what, fix = (
            f"{name} holds tensors with their graphs",
            (f"{name}.append(loss.item())   # where it is filled: a number, and the graph can go",),
        )
    else:
        what = f"{fact or name} requires gradients and was to become a NumPy array"
        fix = (f"{name}.detach().cpu().numpy()",)
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="an array knows no graph; take the values out of it first",
        fix=(*fix, "loss.item()   # for one number: to print, to plot, to keep"),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

scores = nn.Linear(2, 2)(torch.ones(1, 2))
scores.numpy()
"""
MENDED = """
import torch
from torch import nn

scores = nn.Linear(2, 2)(torch.ones(1, 2))
scores.detach().numpy()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
