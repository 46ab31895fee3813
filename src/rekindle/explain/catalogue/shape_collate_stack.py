"""The samples of a batch have different shapes, so that they cannot be stacked."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-10", "shape-collate-stack", "0.2"
TITLE = "stack expects each tensor to be equal size, but got [3, 93] at entry 0 and [3, 89] at entry 1"
RAISES = ("RuntimeError",)
NEEDLES = ("stack expects each tensor to be equal size", "Sizes of tensors must match except in dimension 0. Got")
PATTERNS = (
    r"stack expects each tensor to be equal size, but got \[(?P<a>[\d, ]*)\] at entry (?P<i>\d+) and \[(?P<b>[\d, ]*)\] at entry (?P<j>\d+)",
    r"Sizes of tensors must match except in dimension 0\. Got (?P<old_a>\d+) and (?P<old_b>\d+) in dimension (?P<at>\d+)",
)
OLD = (
    (
        "RuntimeError: invalid argument 0: Sizes of tensors must match except in dimension 0. Got 93 and 89 in dimension 1 at"
        " /Users/soumith/code/builder/wheel/pytorch-src/aten/src/TH/generic/THTensorMath.cpp:3616"
    ),
)
WHY = (
    "A `DataLoader` makes a batch by stacking its samples, which need one shape. Images of different size, sequences of"
    " different length, or a random crop that is not always of the same size end here. `Resize(256)` with one number keeps"
    " the aspect ratio, so that the sizes still differ; `Resize((256, 256))` does not."
)
CHECK = "`[dataset[i][0].shape for i in range(8)]`."


def explain(event: Event) -> Iterator[Cause]:
    """Both shapes; images, sequences, or a stack of the user's own."""
    facts = event.facts
    collates = (
        is_in(event, "collate", "default_collate", "torch/utils/data/_utils/collate.py")
        or "DataLoader worker" in event.message + event.outer
    )
    if "old_a" in facts:
        a, b = numbers(facts["old_a"]), numbers(facts["old_b"])
        what = f"the samples of a batch differ: {a[0]} and {b[0]} in dimension {facts['at']}"
    else:
        a, b = numbers(facts["a"]), numbers(facts["b"])
        whose = "the samples of a batch" if collates else "tensors that are to be stacked"
        what = f"{whose} differ: {shape_text(a)} at {facts['i']} and {shape_text(b)} at {facts['j']}"
    image = len(a) == 3 and a[0] in {1, 3, 4}
    pad = "pad_sequence([...], batch_first=True)   # from torch.nn.utils.rnn, in a collate_fn: sequences of different length"
    resize = "transforms.Resize((256, 256))   # both sides; one number alone keeps the aspect ratio"
    own = "torch.cat([...])   # if they are to lie one behind the other; torch.stack needs equal shapes"
    fix: tuple[str, ...] = (resize, pad) if image else (pad, resize)
    if event.frames and not collates:
        fix = (own, "print([t.shape for t in tensors])   # which one is the odd one")
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="the default collate_fn of a DataLoader stacks the samples, which need one shape"
        if collates or not event.frames
        else "torch.stack adds a dimension and needs equal shapes in all others",
        fix=fix,
        likelihood="possible" if "old_a" in facts and not collates else "certain",
    )


EXAMPLE = """
import torch
from torch.utils.data import DataLoader, Dataset

class Sounds(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.ones(3, 80 + index)

next(iter(DataLoader(Sounds(), batch_size=4)))
"""
MENDED = """
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

class Sounds(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.ones(3, 80 + index)

def padded(samples):
    return pad_sequence([sample.T for sample in samples], batch_first=True).transpose(1, 2)

next(iter(DataLoader(Sounds(), batch_size=4, collate_fn=padded)))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
