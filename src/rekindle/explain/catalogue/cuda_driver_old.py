"""The driver is older than the CUDA that PyTorch was built with."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-12", "cuda-driver-old", "0.2"
TITLE = "The NVIDIA driver on your system is too old (found version 12040)"
RAISES = ()
NEEDLES = ("NVIDIA driver on your system is too old", "driver version is insufficient for CUDA runtime version")
PATTERNS = (
    r"NVIDIA driver on your system is too old \(found version (?P<version>\d+)\)",
    r"(?P<insufficient>driver version is insufficient for CUDA runtime version)",
)
OLD = ("UserWarning: The NVIDIA driver on your system is too old (found version 9000). Please update your GPU driver",)
WHY = (
    "A driver serves CUDA up to a version: 12040 is CUDA 12.4. A wheel built with a newer one starts with this warning and then"
    " goes on without GPUs, so that the error comes later and somewhere else: `is_available() is False`, `Attempting to"
    " deserialize object on a CUDA device`."
)
CHECK = (
    "`nvidia-smi` prints the newest CUDA version that the driver serves; `torch.version.cuda` is the one of the build."
)


def explain(event: Event) -> Iterator[Cause]:
    """The driver's number as a version, and a wheel that it serves."""
    number = int(event.facts.get("version") or 0)
    version = f"{number // 1000}.{number % 1000 // 10}" if number else ""
    wheel = _wheel(number)
    yield Cause(
        CODE,
        NAME,
        what=f"the driver serves CUDA {version} at most, and this PyTorch was built with a newer one"
        if version
        else "the driver is older than the CUDA that this PyTorch was built with",
        why="PyTorch goes on without GPUs; what fails later is a consequence",
        fix=(
            "nvidia-smi   # the driver, and the newest CUDA that it serves",
            f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{wheel}   # a build that this driver serves, if that release is still there"
            if wheel
            else "update the driver, or install a build of PyTorch for an older CUDA: https://pytorch.org/get-started/previous-versions",
            "update the driver   # on a cluster its administrators do; load the newer module",
        ),
        likelihood="certain",
    )


def _wheel(number: int) -> str:
    """Return the newest build of PyTorch that was made for at most this CUDA version; minor versions are compatible."""
    return "cu126" if number >= 12000 else "cu118" if number >= 11000 else ""


EXAMPLE = ""
MENDED = ""
REQUIRES = ("cuda",)
MESSAGE = (
    "/usr/lib/python3/site-packages/torch/cuda/__init__.py:174: UserWarning: CUDA initialization: The NVIDIA driver on your"
    " system is too old (found version 12040). Please update your GPU driver by downloading and installing a new version from"
    " the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to install a PyTorch version"
    " that has been compiled with your version of the CUDA driver."
)
