"""This PyTorch was built for NumPy 1 and NumPy 2 is installed."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-31", "env-numpy-not-available", "0.2"
TITLE = "RuntimeError: Numpy is not available"
RAISES = ("RuntimeError", "ImportError", "UserWarning", "AttributeError")
NEEDLES = (
    "Numpy is not available",
    "A module that was compiled using NumPy 1.x cannot be run in",
    "Failed to initialize NumPy:",
)
PATTERNS = (
    r"Numpy is not available",
    r"compiled using NumPy 1\.x cannot be run in\s+NumPy (?P<version>[\d.]+)",
    r"Failed to initialize NumPy: (?P<reason>[^\n(]{1,120})",
)
OLD = (
    "UserWarning: Failed to initialize NumPy: _ARRAY_API not found (Triggered internally at ../torch/csrc/utils/tensor_numpy.cpp:84.)",
)
WHY = "PyTorch before 2.3 was built against NumPy 1 and cannot talk to NumPy 2: it imports, and fails at the first array. The same is said where NumPy is not installed at all."
CHECK = '`python -c "import numpy, torch; print(numpy.__version__, torch.__version__)"`.'


def explain(event: Event) -> Iterator[Cause]:
    """NumPy too new for this PyTorch, or absent."""
    version = event.facts.get("version") or ""
    yield Cause(
        CODE,
        NAME,
        what=f"this PyTorch cannot use the NumPy that is installed{' (' + version + ')' if version else ''}",
        why="PyTorch before 2.3 is built for NumPy 1; or there is no NumPy",
        fix=('pip install "numpy<2"', "pip install --upgrade torch   # 2.3 and later take NumPy 2"),
        likelihood="certain" if version else "likely",
    )


EXAMPLE = ""
MENDED = ""
MESSAGE = "RuntimeError: Numpy is not available"
REQUIRES: tuple[str, ...] = ()
