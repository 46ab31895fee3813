"""The output has another number of samples than the labels."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._losses import argument_names, loss_tensors
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-04", "loss-batch-size", "0.2"
TITLE = "ValueError: Expected input batch_size (8) to match target batch_size (4)."
RAISES = ("ValueError",)
NEEDLES = ("to match target batch_size",)
PATTERNS = (r"Expected input batch_size \((?P<have>\d+)\) to match target batch_size \((?P<want>\d+)\)",)
OLD = ("ValueError: Expected input batch_size (324) to match target batch_size (4).",)
WHY = (
    "The first dimension of the output is the number of samples. A flatten with a fixed width (`x.view(-1, 400)`) moves features"
    " into it as soon as the images have another size; sequences have a label for each token; or only one of both went through a"
    " filter."
)
CHECK = "Both shapes, and the shape in front of the flatten. Is one number a multiple of the other?"


def explain(event: Event) -> Iterator[Cause]:
    """By the ratio: a flatten that mixed the batch, labels for each token, or another filter."""
    have, want = int(event.facts["have"]), int(event.facts["want"])
    given, target = loss_tensors(event)
    output, labels = argument_names(event)
    shapes = f" (output {shape_text(given.shape)}, target {shape_text(target.shape)})" if given and target else ""
    flatten = "x = torch.flatten(x, 1)   # in place of x.view(-1, n): the batch stays the first dimension"
    tokens = (
        f"F.cross_entropy({output}.reshape(-1, {output}.shape[-1]), {labels}.reshape(-1))   # a label for each token"
    )
    if want and have % want == 0 and have > want:
        why = f"{have} is {have // want} times {want}: a flatten with a fixed width (view(-1, n)) moved features into the batch"
        fix = (flatten, tokens)
    elif have and want % have == 0:
        why = f"{want} is {want // have} times {have}: there is a label for each token or step, and one output for each sample"
        fix = (tokens, f"{labels} = {labels}[:, -1]   # if only the last step counts")
    else:
        why = "a flatten with a fixed width mixed batch and features, or only one of both was filtered or cut"
        fix = (flatten, f"print({output}.shape, {labels}.shape)   # in front of the loss")
    yield Cause(CODE, NAME, what=f"{have} outputs meet {want} labels{shapes}", why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch
from torch.nn import functional as F

features = torch.zeros(4, 16, 10)
output = features.view(-1, 80)[:, :10]
labels = torch.zeros(4, dtype=torch.long)
F.cross_entropy(output, labels)
"""
MENDED = """
import torch
from torch.nn import functional as F

features = torch.zeros(4, 16, 10)
output = torch.flatten(features, 1)[:, :10]
labels = torch.zeros(4, dtype=torch.long)
F.cross_entropy(output, labels)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
