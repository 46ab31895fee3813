"""NumPy has no such dtype as this tensor's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-06", "dtype-bf16-numpy", "0.2"
TITLE = "TypeError: Got unsupported ScalarType BFloat16"
RAISES = ("TypeError",)
NEEDLES = ("Got unsupported ScalarType",)
PATTERNS = (r"Got unsupported ScalarType (?P<dtype>\w+)",)
OLD: tuple[str, ...] = ()
WHY = (
    "NumPy has float16 and no bfloat16, nor the float8 types. The tensor came out of autocast or of a model in bfloat16, and"
    " goes into NumPy: `.numpy()`, matplotlib, scikit-learn, pandas."
)
CHECK = "`x.dtype`."

_NUMPY = re.compile(r"([A-Za-z_][\w.]*?)(?:\.detach\(\))?(?:\.cpu\(\))?\.numpy\(\)")


def explain(event: Event) -> Iterator[Cause]:
    """The dtype, and the user's own tensor in the line that mends it."""
    found = _NUMPY.search(code_of(event))
    x = found[1] if found else "x"
    yield Cause(
        CODE,
        NAME,
        what=f"{x if found else 'a tensor'} is {dtype_name(event.facts['dtype'])}, and NumPy has no such type",
        why="it came out of autocast or of a model in low precision",
        fix=(f"{x}.detach().float().cpu().numpy()   # float32 holds every value of it",),
        likelihood="certain",
    )


EXAMPLE = """
import torch

scores = torch.ones(2, dtype=torch.bfloat16)
scores.numpy()
"""
MENDED = """
import torch

scores = torch.ones(2, dtype=torch.bfloat16)
scores.float().numpy()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
