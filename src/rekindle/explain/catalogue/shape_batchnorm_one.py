"""Batch norm in training mode was given one value per channel."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, running
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-14", "shape-batchnorm-one", "0.2"
TITLE = "Expected more than 1 value per channel when training, got input size torch.Size([1, 16])"
RAISES = ("ValueError",)
NEEDLES = ("Expected more than 1 value per channel", "Expected more than 1 spatial element")
PATTERNS = (
    r"Expected more than 1 value per channel when training, got input size (?:torch\.Size\()?\[(?P<shape>[\d, ]*)",
    r"Expected more than 1 (?P<spatial>spatial element) when training, got input size (?:torch\.Size\()?\[(?P<shape>[\d, ]*)",
)
OLD = ("ValueError: Expected more than 1 value per channel when training, got input size [1, 16]",)
WHY = (
    "In training mode batch norm takes mean and variance over the batch, and one value has no variance. Mostly the last"
    " batch of an epoch has one sample (`len(dataset) % batch_size == 1`), a single image is tried in training mode, or"
    " `DataParallel` left one GPU with one sample."
)
CHECK = "`len(dataset) % batch_size`; `model.training`."


def explain(event: Event) -> Iterator[Cause]:
    """The size that came; a single image tried by hand is told from a last batch where that can be seen."""
    shape = numbers(event.facts["shape"])
    spatial = bool(event.facts.get("spatial"))
    module = running(event)
    yield Cause(
        CODE,
        NAME,
        what=f"{called(module, 'instance norm' if spatial else 'batch norm')} in training mode was given one value per channel: {shape_text(shape)}",
        why="a map of 1 x 1 has no variance of its own"
        if spatial
        else "mean and variance are taken over the batch, and this batch has one sample: the last of an epoch, or a trial with one image",
        fix=("larger images, or fewer strides and poolings in front of it", "model.eval()   # for inference")
        if spatial
        else (
            "DataLoader(..., drop_last=True)   # leaves out a last batch of one",
            "model.eval()   # for inference: then the stored mean and variance are used",
            "nn.GroupNorm(...)   # if batches of one are meant: it does not look at the batch",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn
from torch.utils.data import DataLoader

model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16))
for batch in DataLoader(torch.ones(9, 4), batch_size=4):  # the last batch has one sample
    model(batch)
"""
MENDED = """
import torch
from torch import nn
from torch.utils.data import DataLoader

model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16))
for batch in DataLoader(torch.ones(9, 4), batch_size=4, drop_last=True):
    model(batch)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
