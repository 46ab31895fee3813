"""Scores and labels of a segmentation differ in height and width."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-14", "loss-spatial-size", "0.2"
TITLE = "size mismatch (got input: [2, 5, 8, 8] , target: [2, 16, 16]"
RAISES = ("RuntimeError",)
NEEDLES = ("size mismatch (got input: [",)
PATTERNS = (r"size mismatch \(got input: \[(?P<input>[\d, ]+)\] ?, target: \[(?P<target>[\d, ]+)\]",)
OLD: tuple[str, ...] = ()
WHY = "A segmentation loss compares pixel by pixel: scores `[N, classes, H, W]`, labels `[N, H, W]` with the same height and width. Strides and pools of the network make the scores smaller, or image and mask were resized differently."
CHECK = "Print the shapes of scores and labels."


def explain(event: Event) -> Iterator[Cause]:
    """Both sizes, and the line that makes them equal."""
    scores, labels = numbers(event.facts["input"]), numbers(event.facts["target"])
    if len(scores) < 3 or len(labels) != len(scores) - 1:
        return
    if scores[0] != labels[0]:
        yield Cause(
            CODE,
            NAME,
            what=f"scores of {scores[0]} samples meet labels of {labels[0]}",
            why="both are of one batch",
            fix=("print(output.shape, target.shape)   # in front of the loss",),
        )
        return
    yield Cause(
        CODE,
        NAME,
        what=f"scores of {shape_text(scores)} meet labels of {shape_text(labels)}: {shape_text(scores[2:])} is not {shape_text(labels[1:])}",
        why="each pixel of the labels needs its scores: the network made the picture smaller, or image and mask were resized differently",
        fix=(
            'F.interpolate(output, size=target.shape[-2:], mode="bilinear", align_corners=False)   # scores to the size of the labels',
            "resize image and mask to the same size; the mask with nearest neighbours, so that classes are not mixed",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

scores = torch.ones(2, 5, 8, 8)
labels = torch.zeros(2, 16, 16, dtype=torch.long)
nn.CrossEntropyLoss()(scores, labels)
"""
MENDED = """
import torch
from torch import nn

scores = nn.functional.interpolate(torch.ones(2, 5, 8, 8), size=(16, 16), mode="bilinear")
labels = torch.zeros(2, 16, 16, dtype=torch.long)
nn.CrossEntropyLoss()(scores, labels)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
