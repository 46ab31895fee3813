"""The BLAS library was given a matrix of impossible size."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-21", "shape-sgemm", "0.2"
TITLE = "** On entry to SGEMM parameter number 8 had an illegal value"
RAISES = ()
NEEDLES = (
    "On entry to SGEMM",
    "On entry to DGEMM",
    "was incorrect on entry to SGEMM",
    "was incorrect on entry to DGEMM",
)
PATTERNS = (
    r"On entry to (?P<routine>[SDCZ]GEMM),? *parameter number +(?P<number>\d+) had an illegal value",
    r"Parameter (?P<number>\d+) was incorrect on entry to (?P<routine>[SDCZ]GEMM)",
)
OLD = ("Intel MKL ERROR: Parameter 8 was incorrect on entry to SGEMM.",)
WHY = (
    "The line comes from the library that multiplies matrices, which got a size of 0 or strides that do not go together. In"
    " practice the input of a fully connected layer does not fit it. Current releases check the shapes"
    " first and raise an error; an old one prints this and goes on with a wrong result."
)
CHECK = "The shapes in front of the fully connected layers, and any size of 0."


def explain(event: Event) -> Iterator[Cause]:
    """The routine and the parameter that it names."""
    routine, number = event.facts["routine"], event.facts["number"]
    yield Cause(
        CODE,
        NAME,
        what=f"the matrix product {routine} was given an impossible size (its parameter {number})",
        why="the input of a fully connected layer does not fit it, or a dimension has the size 0; the library prints this and"
        " goes on, so that the result is wrong too",
        fix=(
            "print(x.shape, layer.weight.shape)   # in front of each fully connected layer: x ends in in_features",
            "pip install --upgrade torch   # current releases check the shapes first and raise an error",
        ),
    )


EXAMPLE = ""
MENDED = ""
REQUIRES = ("old torch",)
MESSAGE = " ** On entry to SGEMM parameter number 8 had an illegal value"
