"""This PyTorch was built without CUDA."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-08", "cuda-not-compiled", "0.2"
TITLE = "AssertionError: Torch not compiled with CUDA enabled"
RAISES = ("AssertionError", "RuntimeError", "AttributeError")
NEEDLES = (
    "not compiled with CUDA enabled",
    "not compiled with XPU enabled",
    "not linked with support for cuda",
    "without CUDA support",
    "has no attribute '_cuda_",
)
PATTERNS = (
    r"Torch not compiled with (?P<kind>CUDA|XPU) enabled",
    r"PyTorch is not linked with support for (?P<kind>cuda) devices",
    r"Cannot initialize (?P<kind>CUDA) without ATen_cuda library",
    r"module 'torch\._C' has no attribute '_cuda_(?P<call>\w+)'",
)
OLD = ("AssertionError: Torch not compiled with CUDA enabled",)
WHY = (
    "There are builds of PyTorch for the CPU alone, much smaller ones: `pip install torch` gives one on Windows and macOS, and an"
    " index or an environment file may ask for one on Linux. Its version ends in `+cpu`. No driver helps; it is another build"
    " that is needed, or a program that does without."
)
CHECK = '`python -c "import torch; print(torch.__version__, torch.version.cuda)"`: `None` means no CUDA. `nvidia-smi`: is there a GPU at all.'


def explain(event: Event) -> Iterator[Cause]:
    """Which accelerator was asked for, and both ways out."""
    kind = (event.facts.get("kind") or "CUDA").upper()
    index = "cu130" if kind == "CUDA" else "xpu"
    yield Cause(
        CODE,
        NAME,
        what=f"{kind} was asked for and this PyTorch was built without it",
        why="the installed build is for the CPU (torch.version.cuda is None); a driver or a GPU does not change that"
        if kind == "CUDA"
        else "the installed build has no support for this accelerator",
        fix=(
            'device = "cuda" if torch.cuda.is_available() else "cpu"   # and .to(device) everywhere, to run on both',
            f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{index}   # if there is a GPU",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

torch.ones(2).cuda()
"""
MENDED = """
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.ones(2).to(device)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
