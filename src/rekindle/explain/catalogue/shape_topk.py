"""More of the largest values were asked for than there are."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-33", "shape-topk", "0.2"
TITLE = "RuntimeError: selected index k out of range"
RAISES = ("RuntimeError",)
NEEDLES = ("selected index k out of range", "selected number k out of range", '"k" not in range for dimension')
PATTERNS = (
    r"selected index k out of range",
    r"(?P<call>kthvalue)\(\): selected number k out of range for dimension (?P<dim>-?\d+)",
    r"invalid argument 5: k not in range for dimension",
)
OLD: tuple[str, ...] = ()
WHY = "`topk(k)` takes k values of the last dimension (or of `dim`), and there are fewer. Top-5 accuracy of a model with three classes is the usual case, or a `dim` that is the batch."
CHECK = "`x.shape` and `dim`; `k` is at most the size of that dimension."


def explain(event: Event) -> Iterator[Cause]:
    """The number asked for and the shape where they are known."""
    call = event.facts.get("call") or "topk"
    live = event.live
    k = live.find_plain("k", "topk", "maxk") if live else None
    met = next((fact for fact in tensors_in_line(event) if fact.shape), None)
    asked = f"{call} was asked for {k} values" if isinstance(k, int) else f"{call} was asked for more values"
    has = f"{met.name} has {shape_text(met.shape)}" if met else "the dimension has fewer"
    name = met.name if met else "x"
    yield Cause(
        CODE,
        NAME,
        what=f"{asked}, and {has}"
        if isinstance(k, int) or met
        else f"{call} was asked for more values than the dimension has",
        why="k is at most the size of the dimension it is taken along, the last one by default",
        fix=(
            f"{name}.{call}(min(k, {name}.shape[-1]))   # top-5 of fewer than five classes is all of them",
            f"{name}.{call}(k, dim=...)   # if another dimension is meant",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

logits, k = torch.rand(8, 3), 5
logits.topk(k)
"""
MENDED = """
import torch

logits, k = torch.rand(8, 3), 5
logits.topk(min(k, logits.shape[-1]))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
