"""The samples of a batch hold lists of different length, or tensors that cannot be put together."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-34", "data-collate-lengths", "0.2"
TITLE = "RuntimeError: each element in list of batch should be of equal size"
RAISES = ("RuntimeError",)
NEEDLES = ("each element in list of batch should be of equal size", "Trying to resize storage that is not resizable")
PATTERNS = (
    r"each element in list of batch should be of equal size",
    r"(?P<storage>Trying to resize storage that is not resizable)",
)
OLD: tuple[str, ...] = ()
WHY = "The default collate function lays the first, second, third element of all samples together, so lists have to be of one length (token ids, boxes, coordinates are not). In a worker the batch is made in shared memory of the size of the first sample; another size or dtype then fails as a storage that cannot be resized."
CHECK = "`[len(data[i][0]) for i in range(8)]`, or the shapes and dtypes."


def explain(event: Event) -> Iterator[Cause]:
    """Lists of different length; a storage only where a collate function ran."""
    storage = event.facts.get("storage")
    if storage and not is_in(
        event, "collate", "default_collate", "collate_tensor_fn", "torch/utils/data/_utils/collate.py"
    ):
        return
    yield Cause(
        CODE,
        NAME,
        what="the samples of a batch differ in shape, dtype or layout"
        if storage
        else "the samples of a batch hold lists of different length",
        why="a worker puts them into memory of the size of the first one"
        if storage
        else "the default collate function needs one length for all of them",
        fix=(
            "DataLoader(..., collate_fn=lambda samples: pad_sequence([torch.as_tensor(s) for s in samples], batch_first=True))   # from torch.nn.utils.rnn",
            "DataLoader(..., collate_fn=list)   # keeps them as a list",
            *(("return image.contiguous().clone()   # in __getitem__, where all are of one size",) if storage else ()),
        ),
        likelihood="certain",
    )


EXAMPLE = """
from torch.utils.data import DataLoader

tokens = [[4, 8, 2], [7, 1]]
for batch in DataLoader(tokens, batch_size=2):
    pass
"""
MENDED = """
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

tokens = [[4, 8, 2], [7, 1]]

def padded(samples):
    return pad_sequence([torch.as_tensor(sample) for sample in samples], batch_first=True)

for batch in DataLoader(tokens, batch_size=2, collate_fn=padded):
    pass
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
