"""A label that one_hot is given is no class number."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-13", "loss-one-hot-classes", "0.2"
TITLE = "Class values must be smaller than num_classes."
RAISES = ("RuntimeError",)
NEEDLES = ("Class values must be ",)
PATTERNS = (
    r"Class values must be (?P<high>smaller) than num_classes",
    r"Class values must be (?P<low>non-negative)",
)
OLD: tuple[str, ...] = ("RuntimeError: Class values must be non-negative.",)
WHY = "`F.one_hot(labels, n)` has a column for each of the classes 0 to n - 1. Labels that start at 1, an ignore index of -100 or -1, or one class more than was counted have no column."
CHECK = "`labels.min()`, `labels.max()`, `num_classes`."


def explain(event: Event) -> Iterator[Cause]:
    """The range of the labels where they are alive."""
    labels = next((fact for fact in tensors_in_line(event) if fact.low is not None), None)
    classes = event.live.find_plain("num_classes", "n_classes") if event.live else None
    seen = f" ({labels.name} goes from {labels.low:g} to {labels.high:g})" if labels and labels.high is not None else ""
    name = labels.name if labels else "labels"
    if event.facts.get("low", ""):
        what = f"a label is negative{seen}"
        why = "a class is a number from 0; -1 or -100 mostly mark what is to be ignored, and have no column"
        fix: tuple[str, ...] = (
            f"F.one_hot({name}.clamp(min=0), num_classes) * ({name} >= 0).unsqueeze(-1)   # ignored ones become rows of zeros",
        )
    else:
        what = f"a label is not below the number of classes{f' ({classes})' if classes else ''}{seen}"
        why = "classes are counted from 0, so that the largest is num_classes - 1; the labels start at 1, or there are more classes"
        fix = (
            f"F.one_hot({name} - 1, num_classes)   # if they start at 1",
            f"num_classes = int({name}.max()) + 1   # of the whole data set, not of one batch",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch
from torch.nn import functional as F

labels = torch.tensor([1, 2, 5])
F.one_hot(labels, num_classes=5)
"""
MENDED = """
import torch
from torch.nn import functional as F

labels = torch.tensor([1, 2, 5])
F.one_hot(labels - 1, num_classes=5)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
