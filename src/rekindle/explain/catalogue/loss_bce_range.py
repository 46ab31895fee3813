"""`BCELoss` was given values outside of 0 to 1."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._losses import argument_names, loss_tensors
from rekindle.explain.catalogue._words import product
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-03", "loss-bce-range", "0.2"
TITLE = "RuntimeError: all elements of input should be between 0 and 1"
RAISES = ("RuntimeError",)
NEEDLES = (
    "should be between 0 and 1",
    "input_val >= zero && input_val <= one",
    "x >= 0. && x <= 1.",
    "target_val >= zero && target_val <= one",
)
PATTERNS = (
    r"all elements of (?P<which>input|target) should be between 0 and 1",
    r"input_val >= zero && input_val <= one",
    r"(?P<target>target_val) >= zero && target_val <= one",
    r"Assertion [`'](?:x|\*input) >= 0\. && (?:x|\*input) <= 1\.' failed",
)
OLD = (
    (
        "RuntimeError: Assertion `x >= 0. && x <= 1.' failed. input value should be between 0~1, but got -0.25 at"
        " ../aten/src/THNN/generic/BCECriterion.c:60"
    ),
    (
        "/pytorch/aten/src/ATen/native/cuda/Loss.cu:115: operator(): block: [0,0,0], thread: [0,0,0] Assertion `input_val >= zero"
        " && input_val <= one` failed."
    ),
)
WHY = (
    "`BCELoss` takes probabilities, and the output of a Linear is any number: a sigmoid is missing. Or the values are NaN, which"
    " is outside of 0 to 1 too; then something went wrong before. `BCEWithLogitsLoss` has the sigmoid inside, computes more exactly,"
    " and works under autocast."
)
CHECK = "`output.min()`, `output.max()`, `output.isnan().any()`, and the last module of the model."


def explain(event: Event) -> Iterator[Cause]:
    """The range that was given, and whether it can be NaN."""
    given, target = loss_tensors(event)
    output_name, target_name = argument_names(event)
    if event.facts.get("which") == "target" or event.facts.get("target"):
        seen = (
            f": they go from {target.low:g} to {target.high:g}"
            if target and target.low is not None and target.high is not None
            else ""
        )
        yield Cause(
            CODE,
            NAME,
            what=f"the targets of a binary loss are not between 0 and 1{seen}",
            why="a binary target is 0, 1 or a probability; class numbers above 1, or -1 for no, are of another loss",
            fix=(
                f"({target_name} > 0).float()   # if they are -1 and 1, or counts",
                "nn.CrossEntropyLoss()   # for several classes that exclude each other",
            ),
            likelihood="certain",
        )
        return
    known = given is not None and given.low is not None and given.high is not None
    seen = f": they go from {given.low:g} to {given.high:g}" if given is not None and known else ""
    small = given is not None and not known and given.device == "cpu" and product(given.shape) <= 100_000
    yield Cause(
        CODE,
        NAME,
        what=f"BCELoss was given values that are not probabilities{seen or (': they hold nan or inf' if small else '')}",
        why="something before it gave nan or inf (see grad-explosion-nan)"
        if small
        else "there is no sigmoid at the end of the model"
        if known
        else "there is no sigmoid at the end of the model; or the values are nan, which is outside of 0 to 1 too",
        fix=(
            *(("rekindle explain grad-explosion-nan   # where nan comes from",) if small else ()),
            f"nn.BCEWithLogitsLoss()({output_name}, {target_name})   # on the raw output, without a sigmoid",
            f"nn.BCELoss()(torch.sigmoid({output_name}), {target_name})   # or the sigmoid by hand",
            *(
                (f"print({output_name}.isnan().any())   # if True: see rekindle explain grad-explosion-nan",)
                if not known and not small
                else ()
            ),
        ),
        likelihood="certain" if known or small else "likely",
    )


EXAMPLE = """
import torch
from torch.nn import functional as F

scores = torch.tensor([1.5, -0.2])
labels = torch.tensor([1.0, 0.0])
F.binary_cross_entropy(scores, labels)
"""
MENDED = """
import torch
from torch.nn import functional as F

scores = torch.tensor([1.5, -0.2])
labels = torch.tensor([1.0, 0.0])
F.binary_cross_entropy_with_logits(scores, labels)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
