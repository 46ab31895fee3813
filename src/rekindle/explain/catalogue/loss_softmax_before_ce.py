"""The softmax is applied twice: in the model and in the loss."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-09", "loss-softmax-before-ce", "0.2"
TITLE = "CrossEntropyLoss after softmax: training is slow or stuck"
RAISES = ()
NEEDLES = ()
PATTERNS = ()
OLD: tuple[str, ...] = ()
WHY = (
    "`CrossEntropyLoss` computes the softmax itself, and more exactly. On probabilities it computes a second one: of ten classes"
    " the surest output, 1 for the right class, still has a loss of 1.46, and the gradients are small everywhere. The model trains"
    " slowly, and stays unsure. The same holds of a sigmoid before `BCEWithLogitsLoss`. `rekindle.check` finds both on one batch"
    " (`softmax-before-cross-entropy`, `sigmoid-before-bce-with-logits`)."
)
CHECK = "Do the rows of what the loss is given sum to 1? The last module of the model is a `Softmax`?"


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


EXAMPLE = """
import torch
from torch.nn import functional as F

logits = torch.zeros(1, 10)
logits[0, 3] = 100.0  # sure, and right
loss = F.cross_entropy(logits.softmax(1), torch.tensor([3]))
assert 1.46 < loss < 1.47
"""
MENDED = """
import torch
from torch.nn import functional as F

logits = torch.zeros(1, 10)
logits[0, 3] = 100.0
loss = F.cross_entropy(logits, torch.tensor([3]))
assert loss < 1e-6
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
