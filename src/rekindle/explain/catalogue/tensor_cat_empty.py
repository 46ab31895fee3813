"""An empty list was given to cat or stack: nothing was collected."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-12", "tensor-cat-empty", "0.2"
TITLE = "ValueError: torch.cat(): expected a non-empty list of Tensors"
RAISES = ("ValueError", "RuntimeError", "IndexError")
NEEDLES = (
    "expected a non-empty list of Tensors",
    "expects a non-empty TensorList",
    "received an empty list of sequences",
)
PATTERNS = (
    r"(?:torch\.)?(?P<op>cat)\(\): expected a non-empty list of Tensors",
    r"\b(?P<op>\w{1,60}) expects a non-empty TensorList",
    r"(?P<op>received an empty list of sequences)",
)
OLD = (
    "RuntimeError: torch.cat(): expected a non-empty list of Tensors",
    "RuntimeError: expected a non-empty list of Tensors".replace("expected", "torch.cat(): expected"),
)
WHY = "Nothing was collected: the loop over the loader did not run (an empty data set, `drop_last` with fewer samples than a batch), a filter dropped everything, or a detector found no box."
CHECK = "The length of the list, and of what fills it: `len(loader)`."


def explain(event: Event) -> Iterator[Cause]:
    """The list by its name where the line tells."""
    op = event.facts["op"]
    op = "pad_sequence" if " " in op else op
    found = re.search(r"(?:cat|concat|stack|vstack|hstack|pad_sequence)\(\[?\s*([A-Za-z_]\w*)", code_of(event))
    name = found[1] if found else "outputs"
    yield Cause(
        CODE,
        NAME,
        what=f"{name if found else 'the list'} for {op} is empty",
        why="nothing was collected: the loop in front did not run (no data, drop_last with fewer samples than a batch), or a filter dropped all",
        fix=(
            "print(len(loader), len(loader.dataset))   # is there anything to collect",
            f"if {name}: result = torch.{op if op != 'pad_sequence' else 'cat'}({name})   # if it may be empty",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.utils.data import DataLoader

outputs = [batch for batch in DataLoader([1, 2, 3], batch_size=4, drop_last=True)]
torch.cat(outputs)
"""
MENDED = """
import torch
from torch.utils.data import DataLoader

outputs = [batch for batch in DataLoader([1, 2, 3], batch_size=4)]
torch.cat(outputs)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
