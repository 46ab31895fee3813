"""A label is not one of the classes that the output has."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-01", "loss-target-out-of-bounds", "0.2"
TITLE = "IndexError: Target 10 is out of bounds."
RAISES = ("IndexError", "RuntimeError")
NEEDLES = ("is out of bounds.", "t >= 0 && t < n_classes", "cur_target >= 0 && cur_target < n_classes")
PATTERNS = (
    r"^IndexError: Target (?P<label>-?\d+) is out of bounds\.",
    r"t >= 0 && t < n_classes",
    r"cur_target >= 0 && cur_target < n_classes",
)
OLD = (
    "RuntimeError: Assertion `cur_target >= 0 && cur_target < n_classes' failed.  at ../aten/src/THNN/generic/C.c:94",
)
WHY = (
    "Classes count from 0: with C outputs the labels are 0 to C-1. Labels that start at 1, an output layer that is too"
    " small, or a value such as 255 that was meant to be ignored all end here. On a GPU the same mistake is an"
    " assertion of a kernel, reported at a later line."
)
CHECK = "`target.min()`, `target.max()`, and `output.shape[1]`, which is the number of classes."


def explain(event: Event) -> Iterator[Cause]:
    """The label, and from live frames how many classes there are and the range of all labels."""
    label = event.facts.get("label", "")
    output = event.live.find_tensor("input", "logits", "outputs", "output") if event.live else None
    target = event.live.find_tensor("target", "targets", "labels") if event.live else None
    classes = output.shape[1 if len(output.shape) > 1 else 0] if output and output.shape else 0
    low, high = (target.low, target.high) if target else (None, None)
    said = f"label {label}" if label else "a label"
    there = f"the {classes} classes 0 to {classes - 1}" if classes else "the classes that the output has"
    seen = f"; the labels of this batch go from {low:g} to {high:g}" if low is not None and high is not None else ""
    output_shape = f" (output {list(output.shape)})" if output else ""
    count = f"{classes}" if classes else "C"
    ignore = f"nn.CrossEntropyLoss(ignore_index={label or 255})   # if {label or 255} marks what is not to be learnt"
    shift = "target - 1   # if the labels count from 1"
    enough = int(label) + 1 if label and int(label) > 0 else "n_classes"
    grow = f"nn.Linear(..., {enough})   # if there are more classes than {count} outputs"
    fixes = {
        "negative": (ignore,),
        "next": (shift, grow),
        "far": (ignore, grow),
        "": (shift, grow, ignore),
    }
    yield Cause(
        CODE,
        NAME,
        what=f"{said} is not one of {there}",
        why=f"classes count from 0, so C outputs take labels 0 to C-1{output_shape}{seen}",
        fix=fixes[_case(label, classes)],
    )


def _case(label: str, classes: int) -> str:
    if not label:
        return ""
    if int(label) < 0:
        return "negative"
    if classes and int(label) == classes:
        return "next"
    return "far" if int(label) in {254, 255, 65535} else ""


EXAMPLE = """
import torch
from torch.nn import functional as F

logits = torch.zeros(2, 10)
labels = torch.tensor([10, 1])
F.cross_entropy(logits, labels)
"""
MENDED = """
import torch
from torch.nn import functional as F

logits = torch.zeros(2, 10)
labels = torch.tensor([10, 1]) - 1
F.cross_entropy(logits, labels)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
