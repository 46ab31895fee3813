"""The class weights of a loss are not one number for each class, or no tensor."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-16", "loss-class-weights", "0.2"
TITLE = "weight tensor should be defined either for all 4 classes or no classes but got weight tensor of shape: [3]"
RAISES = ("RuntimeError", "TypeError")
NEEDLES = (
    "weight tensor should be defined either for all",
    "object to buffer 'weight'",
    "object to buffer 'pos_weight'",
)
PATTERNS = (
    r"weight tensor should be defined either for all (?P<classes>\d+) (?:classes|or) (?:or )?no classes,? but got weight tensor of shape: \[(?P<shape>[\d, ]*)\]",
    r"cannot assign '(?P<got>[\w.]+)' object to buffer '(?P<buffer>weight|pos_weight)' \(torch Tensor or None required\)",
)
OLD = (
    "RuntimeError: weight tensor should be defined either for all 10 or no classes but got weight tensor of shape: [9]",
)
WHY = "`weight` of a cross entropy has one float for each score of the model, in their order. A class that does not occur in the labels still has its score, so it needs its weight."
CHECK = "`logits.shape[1]` and `weight.shape`; weights computed with `np.unique(labels)` lack the classes that do not occur."


def explain(event: Event) -> Iterator[Cause]:
    """Classes and weights, or what was given in place of a tensor."""
    facts = event.facts
    if facts.get("buffer"):
        yield Cause(
            CODE,
            NAME,
            what=f"{facts['buffer']} of a loss was given as {facts['got']}, and has to be a tensor",
            why="it moves with the loss to its device, so it is a buffer",
            fix=(
                "nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float32))",
                "criterion.to(device)   # takes the weights along",
            ),
            likelihood="certain",
        )
        return
    classes = int(facts["classes"])
    yield Cause(
        CODE,
        NAME,
        what=f"the model gives {classes} scores, and there are weights of shape [{facts['shape']}]",
        why="each score needs one weight, also those of classes that do not occur in the labels",
        fix=(
            f"counts = torch.bincount(labels, minlength={classes})   # a class that does not occur counts 0",
            "weight = counts.sum() / (len(counts) * counts.clamp(min=1))",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

labels = torch.tensor([0, 1, 1, 0])
weight = 1 / torch.bincount(labels).float()
nn.CrossEntropyLoss(weight=weight)(torch.zeros(4, 3), labels)
"""
MENDED = """
import torch
from torch import nn

labels = torch.tensor([0, 1, 1, 0])
weight = 1 / torch.bincount(labels, minlength=3).clamp(min=1).float()
nn.CrossEntropyLoss(weight=weight)(torch.zeros(4, 3), labels)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
