"""A NumPy number or array lies among the tensors, and weights_only=True refuses it."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, danger_of, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-02", "load-weights-only-numpy", "0.2"
TITLE = "WeightsUnpickler error: Unsupported global: GLOBAL numpy._core.multiarray.scalar was not an allowed global"
RAISES = ("UnpicklingError",)
NEEDLES = ("GLOBAL numpy", "Unsupported class numpy")
PATTERNS = (r"(?:Unsupported global: GLOBAL|Unsupported class) (?P<name>numpy[\w.]*)",)
OLD = (
    (
        "_pickle.UnpicklingError: Weights only load failed. WeightsUnpickler error: Unsupported global: GLOBAL"
        " numpy.core.multiarray.scalar was not an allowed global by default."
    ),
)
WHY = (
    "`np.float64(0.91)` looks like a number and is saved as an object of NumPy, through a function of NumPy that"
    " `weights_only=True` (the default since torch 2.6) does not know. A best accuracy, a history of losses or the state"
    " of NumPy's generator is enough to make the whole checkpoint unreadable."
)
CHECK = "`rekindle inspect FILE --tree` shows which entries are NumPy's; they are mostly not the weights."


def explain(event: Event) -> Iterator[Cause]:
    """Which of NumPy's names it was: a number, an array, or the generator's state."""
    name = event.facts["name"]
    if danger_of(event):
        return  # load-weights-only-global names it
    file, stem = checkpoint_of(event), stem_of(event)
    kind = (
        "a NumPy number"
        if name.endswith("scalar")
        else "a NumPy array"
        if name.endswith("_reconstruct")
        else "a value of NumPy"
    )
    yield Cause(
        CODE,
        NAME,
        what=f"the checkpoint holds {kind}, which torch.load refuses by default ({name})",
        why="a metric or a generator's state was saved as NumPy made it; weights_only=True takes tensors and plain Python"
        " values only",
        fix=(
            f"rekindle convert {file} {stem}.weights.pth --data-only   # the same data without NumPy's objects; runs nothing",
            'torch.save({..., "best": float(best)}, path)   # where it is written: numbers as Python\'s, arrays as tensors',
            (
                "with torch.serialization.safe_globals([numpy._core.multiarray.scalar, numpy.dtype, type(numpy.dtype('float64'))]):"
                " torch.load(...)   # allows NumPy's numbers, for a file you trust"
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import numpy as np
import torch

torch.save({"weight": torch.zeros(2), "best": np.float64(0.91)}, "last.pt")
torch.load("last.pt")
"""
MENDED = """
import numpy as np
import torch

torch.save({"weight": torch.zeros(2), "best": float(np.float64(0.91))}, "last.pt")
torch.load("last.pt")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
