"""Apple's GPU backend has no float64, lacks an operation, or is out of memory."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-18", "mps-unsupported", "0.2"
TITLE = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
RAISES = ("TypeError", "NotImplementedError", "RuntimeError")
NEEDLES = (
    "MPS framework doesn't support float64",
    "not currently implemented for the MPS device",
    "MPS backend out of memory",
    "from the 'MPS' backend",
)
PATTERNS = (
    r"(?P<double>MPS framework doesn't support float64)",
    r"The operator '(?P<operator>[\w:.]+)' is not currently implemented for the MPS device",
    r"(?P<memory>MPS backend out of memory) \(MPS allocated: (?P<used>[\d.]+ \w+), other allocations: (?P<other>[\d.]+ \w+), max allowed: (?P<limit>[\d.]+ \w+)\)\. Tried to allocate (?P<tried>[\d.]+ \w+)",
    r"Could not run '(?P<missing>[\w:.]+)' with arguments from the 'MPS' backend",
)
OLD = (
    (
        "NotImplementedError: The operator 'aten::_linalg_svd.U' is not currently implemented for the MPS device. If you want this"
        " op to be added in priority during the prototype phase of this feature, please comment on the issue."
    ),
    (
        "RuntimeError: MPS backend out of memory (MPS allocated: 17.36 GB, other allocations: 613.56 MB, max allowed: 18.13 GB)."
        " Tried to allocate 192.00 MB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit"
    ),
)
WHY = (
    "The backend for Apple's GPUs (`mps`) has no 64-bit floats, does not have every operation, and shares the memory of the"
    " machine with everything else. Data from NumPy is float64, which is where the first of these mostly comes from. A PyTorch"
    " that was not built for a Mac with Apple's GPU has no `mps` at all."
)
CHECK = "`x.dtype`; the operation that the message names; `torch.backends.mps.is_available()`."


def explain(event: Event) -> Iterator[Cause]:
    """Which of the four it is."""
    facts = event.facts
    name = next((fact.name for fact in tensors_in_line(event) if fact.dtype == "float64"), "x")
    if facts.get("double"):
        what, why = (
            f"{name} is float64, which mps does not have",
            "data of NumPy is float64; Apple's GPUs compute with 32 bits at most",
        )
        fix: tuple[str, ...] = (f'{name} = {name}.float().to("mps")   # float32 first, then move',)
    elif facts.get("operator"):
        what, why = f"{facts['operator']} does not exist for mps", "not every operation was written for Apple's GPUs"
        fix = (
            "PYTORCH_ENABLE_MPS_FALLBACK=1 python train.py   # such operations run on the CPU, slower",
            "pip install --upgrade torch   # each release has more of them",
        )
    elif facts.get("memory"):
        what = f"mps is out of memory: {facts['tried']} more than the {facts['used']} in use do not fit under {facts['limit']}"
        why = "Apple's GPU shares the machine's memory; half of the batch needs about half of the activations"
        fix = (
            "batch_size=...   # half of it, with gradients accumulated over two batches",
            "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 python train.py   # no limit: the whole machine may begin to swap",
        )
    else:
        what, why = (
            f"{facts.get('missing', 'an operation')} cannot run on mps here",
            "this PyTorch has no support for Apple's GPU, or lacks the operation",
        )
        fix = ('device = "mps" if torch.backends.mps.is_available() else "cpu"',)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import numpy as np
import torch

torch.from_numpy(np.zeros(3)).to("mps")
"""
MENDED = """
import numpy as np
import torch

torch.from_numpy(np.zeros(3)).float().to("mps")
"""
REQUIRES = ("mps",)
MESSAGE = (
    "TypeError: Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32"
    " instead."
)
