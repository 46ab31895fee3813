"""A tensor was made on an array that must not be written."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-25", "data-readonly-array", "0.2"
TITLE = "UserWarning: The given NumPy array is not writable, and PyTorch does not support non-writable tensors"
RAISES = ()
NEEDLES = ("The given NumPy array is not writ", "The given buffer is not writable")
PATTERNS = (r"The given (?P<kind>NumPy array|buffer) is not write?able",)
OLD = ("UserWarning: The given NumPy array is not writeable, and PyTorch does not support non-writeable tensors.",)
WHY = (
    "`torch.from_numpy` shares the array's memory. Arrays of an image (`np.asarray(image)`), of a memory map in mode `r`, of"
    " Arrow or of a broadcast are read-only; a tensor knows no such thing, so that writing into it (augmentation in place,"
    " `tensor.sub_()`) may crash the process or change what others read. It is a warning, printed once."
)
CHECK = "`array.flags.writeable`."


def explain(event: Event) -> Iterator[Cause]:
    """An array, or the bytes that `frombuffer` was given."""
    buffer = event.facts["kind"] == "buffer"
    yield Cause(
        CODE,
        NAME,
        what=f"a tensor shares memory with a {'buffer' if buffer else 'NumPy array'} that is read-only",
        why="tensors can always be written; writing into this one is undefined and may end the process",
        fix=("torch.frombuffer(bytearray(data), dtype=torch.uint8)   # a copy that can be written",)
        if buffer
        else (
            "torch.from_numpy(array.copy())   # or torch.tensor(array): a copy of its own",
            "np.array(image)   # in place of np.asarray(image), for PIL images",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import numpy as np
import torch

torch.set_warn_always(True)  # else it is said once in a process
array = np.ones(3)
array.flags.writeable = False
torch.from_numpy(array)
torch.set_warn_always(False)
"""
MENDED = """
import warnings

import numpy as np
import torch

warnings.simplefilter("error")
torch.set_warn_always(True)
array = np.ones(3)
array.flags.writeable = False
torch.from_numpy(array.copy())
torch.set_warn_always(False)
"""
REQUIRES = ("numpy",)
MESSAGE = (
    "train.py:7: UserWarning: The given NumPy array is not writable, and PyTorch does not support non-writable tensors."
)
