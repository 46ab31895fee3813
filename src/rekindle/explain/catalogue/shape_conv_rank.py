"""The input of a convolution, pooling or normalisation has too few or too many dimensions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, first_input, running
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-06", "shape-conv-rank", "0.2"
TITLE = "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [28, 28]"
RAISES = ("RuntimeError", "ValueError")
NEEDLES = (
    "(unbatched) or ",
    "-dimensional input for ",
    "tensor expected for input",
    "D tensor, but got",
    "input (got ",
)
PATTERNS = (
    r"Expected (?P<low>\d)D \(unbatched\) or (?P<high>\d)D \(batched\) input to (?P<layer>\w+), but got input of size: \[(?P<shape>[\d, ]*)\]",
    r"Expected (?P<high>\d)-dimensional input for \d-dimensional weight \[?[\d, ]+\]?, but got \d-dimensional input of size \[(?P<shape>[\d, ]*)\]",
    r"non-empty (?P<low>\d)D or (?P<high>\d)D \(batch mode\) tensor expected for input",
    r"\b(?P<layer>\w{1,60})\(\): Expected (?P<low>\d)D or (?P<high>\d)D tensor, but got \[(?P<shape>[\d, ]*)\]",
    r"expected (?:(?P<low>\d)D or )?(?P<high>\d)D input \(got (?P<got>\d)D input\)",
)
OLD = (
    (
        "RuntimeError: Expected 4-dimensional input for 4-dimensional weight [6, 1, 5, 5], but got 2-dimensional input of size"
        " [28, 28] instead"
    ),
    (
        "RuntimeError: Expected 4-dimensional input for 4-dimensional weight 6 1 5 5, but got 2-dimensional input of size [28,"
        " 28] instead"
    ),
)
WHY = (
    "Layers for images take a batch of them, (N, C, H, W); convolutions and poolings also take one, (C, H, W). An array"
    " without a channel dimension (a grey image of 28 x 28), a batch without one, or a feature map that was flattened too"
    " early has another number of dimensions."
)
CHECK = "`x.dim()` and `x.shape` in front of the layer."

_DIGIT = re.compile(r"([123])d", re.IGNORECASE)


def explain(event: Event) -> Iterator[Cause]:
    """The shape that came, and the line that adds what is missing."""
    facts = event.facts
    module = running(event)
    given = first_input(module)
    shape = numbers(facts.get("shape", "")) or (given.shape if given is not None else ())
    low, high = facts.get("low", ""), facts["high"]
    digit = _DIGIT.search(module.kind if module else facts.get("layer", ""))
    space = "HW"[: int(digit[1])] if digit and int(digit[1]) < 3 else "DHW" if digit else "HW"
    wanted = f"(N, C, {', '.join(space)})"
    come = shape_text(shape) if shape else f"{facts.get('got', 'another number of')} dimensions"
    dims = len(shape) or int(facts.get("got") or 0)
    yield Cause(
        CODE,
        NAME,
        what=f"{called(module, facts.get('layer') or 'the layer')} takes {f'{low} or ' if low else ''}{high} dimensions and got {come}",
        why=f"it wants {wanted}{', or one sample without N' if low and 'batch' in event.message else ''}; a dimension is"
        + (" missing" if dims < int(low or high) else " too many"),
        fix=_fix(shape, dims, int(low or high), int(high)),
        likelihood="certain",
    )


def _fix(shape: tuple[int, ...], dims: int, low: int, high: int) -> tuple[str, ...]:
    if dims > high:
        return (
            "x.squeeze(1)   # takes out one dimension of size 1; say which",
            "torch.flatten(x, 2)   # or joins the last ones",
        )
    if dims == 2 and low == 3:
        return (
            "x.unsqueeze(0).unsqueeze(0)   # one grey image: (H, W) becomes (1, 1, H, W)",
            f"x.unsqueeze(1)   # if {shape[0] if shape else 'the first'} is the batch and the layer is for sequences (1d)",
        )
    if dims == 3 and high == 4:
        return (
            "x.unsqueeze(1)   # (N, H, W) becomes (N, 1, H, W)",
            "x.unsqueeze(0)   # or one image (C, H, W) as a batch",
        )
    if dims == 2 and high == 4:
        return (
            "nn.BatchNorm1d(...)   # for (N, features), after a flatten",
            "x.view(N, C, H, W)   # or put this layer in front of the flatten",
        )
    return (
        "x.unsqueeze(0)   # adds a dimension in front; unsqueeze(1) behind the batch",
        "print(x.shape)   # where a dimension was lost",
    )


EXAMPLE = """
import torch
from torch import nn

image = torch.ones(28, 28)
nn.Conv2d(1, 6, 5)(image)
"""
MENDED = """
import torch
from torch import nn

image = torch.ones(28, 28)
nn.Conv2d(1, 6, 5)(image.unsqueeze(0).unsqueeze(0))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
