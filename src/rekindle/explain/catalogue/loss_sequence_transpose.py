"""Classes are in the last dimension where cross entropy wants them second."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._losses import argument_names, loss_tensors
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-12", "loss-sequence-transpose", "0.2"
TITLE = "RuntimeError: Expected target size [4, 50], got [4, 12]"
RAISES = ("RuntimeError", "ValueError")
NEEDLES = ("Expected target size",)
PATTERNS = (
    r"Expected target size \[(?P<want>[\d, ]+)\], got \[(?P<have>[\d, ]+)\]",
    r"Expected target size \((?P<want>[\d, ]+)\), got torch\.Size\(\[(?P<have>[\d, ]+)\]\)",
)
OLD = ("ValueError: Expected target size (4, 50), got torch.Size([4, 12])",)
WHY = (
    "Cross entropy wants the classes in the second dimension, `[N, C, T]`, and a model of sequences gives them last: `[N, T, C]`."
    " The loss then reads the steps as classes. If both numbers happen to be the same nothing is raised, and the loss is wrong."
)
CHECK = "`logits.shape` and `tags.shape`: which dimension of the logits is the number of classes?"


def explain(event: Event) -> Iterator[Cause]:
    """With the shapes; without the logits' shape the transpose is the usual case."""
    want, have = numbers(event.facts["want"]), numbers(event.facts["have"])
    given, _ = loss_tensors(event)
    output, labels = argument_names(event)
    turned = given is not None and len(given.shape) > 2 and (given.shape[0], *given.shape[1:-1]) == have
    if given is not None and not turned:
        yield Cause(
            CODE,
            NAME,
            what=f"an output of {shape_text(given.shape)} wants labels of {shape_text(want)}, and they are {shape_text(have)}",
            why="there is one label for each position of the output, its second dimension being the classes; the positions differ",
            fix=(f"print({output}.shape, {labels}.shape)   # cut or pad one of both to the other's length",),
        )
        return
    shown = f"output {shape_text(given.shape)}, " if given else ""
    classes = given.shape[-1] if given else want[-1]
    yield Cause(
        CODE,
        NAME,
        what=f"the classes are not in the second dimension of the output ({shown}labels {shape_text(have)})",
        why=f"cross entropy reads [N, C, T]; here the {classes} classes come last, and it takes the steps for classes",
        fix=(
            f"F.cross_entropy({output}.transpose(1, 2), {labels})",
            f"F.cross_entropy({output}.reshape(-1, {classes}), {labels}.reshape(-1))   # or flat, each step a sample",
        ),
        likelihood="certain" if turned else "likely",
    )


EXAMPLE = """
import torch
from torch.nn import functional as F

logits = torch.zeros(4, 12, 50)
tags = torch.zeros(4, 12, dtype=torch.long)
F.cross_entropy(logits, tags)
"""
MENDED = """
import torch
from torch.nn import functional as F

logits = torch.zeros(4, 12, 50)
tags = torch.zeros(4, 12, dtype=torch.long)
F.cross_entropy(logits.transpose(1, 2), tags)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
