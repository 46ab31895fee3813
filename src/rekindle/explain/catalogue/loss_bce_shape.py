"""Output and target have different shapes: [N, 1] and [N]."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._losses import argument_names
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-05", "loss-bce-shape", "0.2"
TITLE = "Using a target size (torch.Size([8])) that is different to the input size (torch.Size([8, 1]))"
RAISES = ("ValueError", "UserWarning")
NEEDLES = ("that is different to the input size", "must be the same as input size")
PATTERNS = (
    r"Using a target size \(torch\.Size\(\[(?P<target>[\d, ]*)\]\)\) that is different to the input size \(torch\.Size\(\[(?P<input>[\d, ]*)\]\)\)(?P<rest>[^\n]{0,80})",
    r"Target size \(torch\.Size\(\[(?P<target>[\d, ]*)\]\)\) must be the same as input size \(torch\.Size\(\[(?P<input>[\d, ]*)\]\)\)",
)
OLD = (
    (
        "UserWarning: Using a target size (torch.Size([8])) that is different to the input size (torch.Size([8, 1])). This will"
        " likely lead to incorrect results due to broadcasting. Please ensure they have the same size."
    ),
    (
        "ValueError: Using a target size (torch.Size([8])) that is different to the input size (torch.Size([8, 1])) is deprecated."
        " Please ensure they have the same size."
    ),
)
WHY = (
    "A Linear with one output gives `[N, 1]`, labels come as `[N]`. BCE refuses. MSE, L1 and Huber only warn and broadcast the two"
    " to `[N, N]`: every output is then compared with every label, and the model learns the mean."
)
CHECK = "Both shapes, in front of the loss."


def explain(event: Event) -> Iterator[Cause]:
    """Which of both has the dimension of 1, and whether it was only a warning."""
    target, given = numbers(event.facts["target"]), numbers(event.facts["input"])
    output, labels = argument_names(event)
    broadcasts = "broadcasting" in event.message
    if len(given) == len(target) + 1 and given[-1] == 1:
        fix = [
            f"{output}.squeeze(-1)   # {shape_text(given)} to {shape_text(given[:-1])}",
            f"{labels}.unsqueeze(-1)   # or the labels to {shape_text((*target, 1))}",
        ]
    elif len(target) == len(given) + 1 and target[-1] == 1:
        fix = [
            f"{labels}.squeeze(-1)   # {shape_text(target)} to {shape_text(target[:-1])}",
            f"{output}.unsqueeze(-1)   # or the output to {shape_text((*given, 1))}",
        ]
    elif len(given) == 2 and len(target) == 1 and given[0] == target[0]:
        fix = [
            f"F.cross_entropy({output}, {labels})   # if the {given[1]} outputs are classes that exclude each other",
            f"F.one_hot({labels}, {given[1]}).float()   # as target of a binary loss for each class",
        ]
    else:
        fix = [f"print({output}.shape, {labels}.shape)   # in front of the loss: they have to be the same"]
    wide = _broadcast(given, target)
    yield Cause(
        CODE,
        NAME,
        what=f"the output has shape {shape_text(given)} and the target {shape_text(target)}",
        why=f"they are broadcast to {shape_text(wide)}, so that every output is compared with every label: the loss is wrong"
        if broadcasts and wide
        else "this loss compares number by number, so that both need one shape",
        fix=tuple(fix),
        likelihood="certain",
    )


def _broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that two shapes are broadcast to; empty where they cannot be."""
    rank = max(len(one), len(other))
    padded = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    sizes = [(a, b) for a, b in padded]
    return tuple(max(a, b) for a, b in sizes) if all(a == b or 1 in {a, b} for a, b in sizes) else ()


EXAMPLE = """
import torch
from torch.nn import functional as F

output = torch.zeros(8, 1)
labels = torch.ones(8)
F.binary_cross_entropy_with_logits(output, labels)
"""
MENDED = """
import torch
from torch.nn import functional as F

output = torch.zeros(8, 1)
labels = torch.ones(8)
F.binary_cross_entropy_with_logits(output.squeeze(-1), labels)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
