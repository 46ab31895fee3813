"""An operation has no deterministic form, or CuBLAS lacks its setting for one."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-32", "deterministic-missing", "0.2"
TITLE = "RuntimeError: Deterministic behavior was enabled, but this operation is not deterministic because it uses CuBLAS and you have CUDA >= 10.2"
RAISES = ("RuntimeError", "UserWarning")
NEEDLES = ("does not have a deterministic implementation", "this operation is not deterministic because it uses CuBLAS")
PATTERNS = (
    r"(?P<call>[\w:]{1,100}) does not have a deterministic implementation",
    r"this operation is not deterministic because it uses (?P<cublas>CuBLAS)",
)
OLD: tuple[str, ...] = ()
WHY = "With `torch.use_deterministic_algorithms(True)` torch refuses what could give other bits in the next run. CuBLAS needs a fixed workspace, set before CUDA starts; some operations (a few interpolations, pooling and scatter kernels) have no such form on a GPU."
CHECK = "The operation in the message; `torch.are_deterministic_algorithms_enabled()`."


def explain(event: Event) -> Iterator[Cause]:
    """The setting of CuBLAS, or the operation."""
    if event.facts.get("cublas"):
        yield Cause(
            CODE,
            NAME,
            what="deterministic mode is on, and CuBLAS has no fixed workspace",
            why="the environment variable has to be there before CUDA starts",
            fix=(
                "CUBLAS_WORKSPACE_CONFIG=:4096:8 python train.py",
                'os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"   # or as the first lines, before torch is imported',
            ),
            likelihood="certain",
        )
        return
    call = event.facts["call"]
    yield Cause(
        CODE,
        NAME,
        what=f"{call} has no deterministic form, and only such are allowed",
        why="torch.use_deterministic_algorithms(True) was called",
        fix=(
            "torch.use_deterministic_algorithms(True, warn_only=True)   # says so and goes on: the bits may differ from run to run",
            "another operation in its place: nearest for bilinear interpolation, a plain max pooling",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

torch.use_deterministic_algorithms(True)
try:
    nn.MaxUnpool2d(2)(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.long))
finally:
    torch.use_deterministic_algorithms(False)
"""
MENDED = """
import torch
from torch import nn

nn.Upsample(scale_factor=2)(torch.ones(1, 1, 1, 1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
