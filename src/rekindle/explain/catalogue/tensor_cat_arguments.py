"""cat or stack was given something else than a list of tensors with dimensions."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-33", "tensor-cat-arguments", "0.2"
TITLE = "RuntimeError: zero-dimensional tensor (at position 0) cannot be concatenated"
RAISES = ("RuntimeError", "TypeError")
NEEDLES = ("cannot be concatenated", "must be tuple of Tensors, not ", "expected Tensor as element ")
PATTERNS = (
    r"zero-dimensional tensor \(at position (?P<zero>\d+)\) cannot be concatenated",
    r"(?P<call>cat|stack|hstack|vstack|concat)\(\): argument 'tensors' \(position 1\) must be tuple of Tensors, not (?P<got>[\w.]+)",
    r"expected Tensor as element (?P<at>\d+) in argument 0, but got (?P<got>[\w.]+)",
)
OLD: tuple[str, ...] = ()
WHY = "`torch.cat([a, b])` and `torch.stack([a, b])` take one list (or tuple) of tensors. `cat` joins along a dimension that is there already; numbers without dimensions, such as losses, are stacked."
CHECK = "`[type(t) for t in tensors]` and their shapes."


def explain(event: Event) -> Iterator[Cause]:
    """A tensor in place of the list, something else in the list, or numbers."""
    facts = event.facts
    if facts.get("zero"):
        what, why = (
            "cat was given tensors without dimensions",
            "it joins along a dimension that is there; single numbers have none",
        )
        fix: tuple[str, ...] = ("torch.stack(losses)   # makes the dimension",)
    elif facts.get("call"):
        what, why = (
            f"{facts['call']} was given a {facts['got']} in place of a list of tensors",
            "its first argument is the list",
        )
        fix = (f"torch.{facts['call']}([a, b])   # with the brackets",)
    else:
        kind = facts["got"]
        what, why = (
            f"element {facts['at']} of the list is a {kind}, not a tensor",
            "all elements of the list have to be tensors",
        )
        fix = {
            "list": ("torch.cat([t for part in tensors for t in part])   # a list of lists of tensors, flat",),
            "numpy.ndarray": ("torch.from_numpy(array)   # each of them, also what a data set gives",),
            "NoneType": ("tensors = [t for t in tensors if t is not None]",),
        }.get(kind, ("torch.as_tensor(value)   # each of them",))
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch

losses = [torch.tensor(0.3), torch.tensor(0.2)]
torch.cat(losses).mean()
"""
MENDED = """
import torch

losses = [torch.tensor(0.3), torch.tensor(0.2)]
torch.stack(losses).mean()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
