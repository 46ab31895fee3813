"""The file was written under NumPy 2 and is read under NumPy 1."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-15", "load-numpy2-pickle", "0.2"
TITLE = "ModuleNotFoundError: No module named 'numpy._core'"
RAISES = ("ModuleNotFoundError",)
NEEDLES = ("No module named 'numpy._core",)
PATTERNS = (r"No module named 'numpy\._core(?P<rest>[\w.]*)'",)
OLD: tuple[str, ...] = ()
WHY = (
    "NumPy 2 renamed its package `numpy.core` to `numpy._core`, and pickles name the functions that make an array by their"
    " package. A checkpoint with NumPy arrays or numbers in it that was written under NumPy 2 cannot be read under NumPy"
    " 1."
)
CHECK = "`python -c 'import numpy; print(numpy.__version__)'` on the machine that reads: below 2."


def explain(event: Event) -> Iterator[Cause]:
    """One cause: two versions of NumPy."""
    file, stem = checkpoint_of(event), stem_of(event)
    yield Cause(
        CODE,
        NAME,
        what=f"the file was written under NumPy 2, and this is NumPy 1: there is no numpy._core{event.facts['rest']} here",
        why="pickled arrays name NumPy's own package, which NumPy 2 calls numpy._core and NumPy 1 numpy.core",
        fix=(
            'pip install "numpy>=2"   # on the machine that reads',
            f"rekindle convert {file} {stem}.plain.pth --data-only   # or the tensors without NumPy's objects, once",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import sys

import numpy as np
import torch

torch.save({"history": np.zeros(3)}, "last.pt")
assert np.lib.NumpyVersion(np.__version__) < "2.0.0", "this happens under NumPy 1"
torch.load("last.pt", weights_only=False)  # runs code from the file: our own
"""
MENDED = """
import numpy as np
import torch

torch.save({"history": torch.from_numpy(np.zeros(3))}, "last.pt")
torch.load("last.pt")
"""
REQUIRES = ("old numpy",)
MESSAGE = "ModuleNotFoundError: No module named 'numpy._core'"
