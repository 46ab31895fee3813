"""Labels have one dimension too many for a loss that wants class numbers."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._losses import argument_names, loss_tensors
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-02", "loss-multi-target", "0.2"
TITLE = "0D or 1D target tensor expected, multi-target not supported"
RAISES = ("RuntimeError",)
NEEDLES = (
    "multi-target not supported",
    "only batches of spatial targets supported (3D tensors)",
    "multi_margin_loss: target tensor should be 1-D",
)
PATTERNS = (
    r"multi-target not supported",
    r"only batches of spatial targets supported \(3D tensors\) but got targets of (?:dimension|size)?:? ?:? ?(?P<rank>\d+)",
    r"multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples \(batch size\)\. Expected target size \[\d+\], but got \[(?P<target>[\d, ]+)\]",
)
OLD = (
    "RuntimeError: multi-target not supported at ../aten/src/THNN/generic/ClassNLLCriterion.c:22",
    "RuntimeError: 1D target tensor expected, multi-target not supported",
    "RuntimeError: only batches of spatial targets supported (3D tensors) but got targets of dimension: 4",
)
WHY = (
    "`CrossEntropyLoss` and `NLLLoss` take one class number per sample: labels of shape `[N]`, for images of labels `[N, H, W]`."
    " A data set often gives `[N, 1]`, or a row of zeros with a single one (one-hot). Probabilities per class are fine too, as floats"
    " of the shape of the output."
)
CHECK = "`target.shape`, `target.dtype` and `output.shape`; does every row of the target sum to 1?"


def explain(event: Event) -> Iterator[Cause]:
    """By the target's shape: a dimension of 1, one-hot, or unknown."""
    given, target = loss_tensors(event)
    _, name = argument_names(event)
    shape = target.shape if target else numbers(event.facts.get("target", ""))
    width = given.shape[1] if given and len(given.shape) > 1 else 0
    squeeze = f"{name}.squeeze(1)   # [N, 1] to [N]"
    argmax = f"{name}.argmax(1)   # one-hot to class numbers"
    floats = f"{name}.float()   # or as probabilities, of the shape of the output"
    fix: tuple[str, ...]
    if len(shape) == 2 and shape[1] == width > 1:
        why, fix = (
            "a row for each sample reads as one-hot, or as a probability for each class; whole numbers are read as class numbers",
            (argmax, floats),
        )
    elif event.facts.get("rank") or len(shape) == 4:
        why, fix = (
            "a map of labels has the shape [N, H, W], without the dimension of channels",
            (
                f"{name}.squeeze(1)   # [N, 1, H, W] to [N, H, W]",
                f"{name}.argmax(1)   # if the channels are one-hot classes",
            ),
        )
    elif len(shape) == 2 and shape[1] == 1:
        why, fix = "class numbers are wanted as [N]; the data set gives a column", (squeeze,)
    else:
        why, fix = (
            "one class number per sample is wanted: [N]; a column [N, 1] or one-hot rows have one dimension too many",
            (squeeze, argmax),
        )
    shown = f" of shape {shape_text(shape)}" if shape else ""
    beside = f" beside an output of {shape_text(given.shape)}" if given else ""
    yield Cause(
        CODE,
        NAME,
        what=f"the labels{shown}{beside} are not one class number per sample",
        why=why,
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.nn import functional as F

output = torch.zeros(2, 10)
labels = torch.tensor([[3], [7]])
F.cross_entropy(output, labels)
"""
MENDED = """
import torch
from torch.nn import functional as F

output = torch.zeros(2, 10)
labels = torch.tensor([[3], [7]])
F.cross_entropy(output, labels.squeeze(1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
