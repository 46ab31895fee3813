"""The last dimension of a Linear's input is not its in_features."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._matrices import is_other_backbone, is_unflattened, maps_of
from rekindle.explain.catalogue._modules import first_input, tensors_in_line
from rekindle.explain.catalogue._words import product, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-01", "shape-linear", "0.2"
TITLE = "mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)"
RAISES = ("RuntimeError",)
NEEDLES = (
    "mat1 and mat2 shapes cannot be multiplied",
    "size mismatch, m1:",
    "Expected size for first two dimensions of batch2",
    "size mismatch, got input (",
    "must have same reduction dim, but got",
)
PATTERNS = (
    r"mat1 and mat2 shapes cannot be multiplied \((?P<rows>\d+)x(?P<have>\d+) and (?P<want>\d+)x(?P<out>\d+)\)",
    r"Expected size for first two dimensions of batch2 tensor to be: \[(?P<batch>\d+), (?P<have>\d+)\] but got: \[(?P<batch2>\d+), (?P<want>\d+)\]",
    r"size mismatch, got input \(\d+\), mat \((?P<rows>\d+)x(?P<have>\d+)\), vec \((?P<want>\d+)\)",
    r"size mismatch, m1: \[(?P<rows>\d+) x (?P<have>\d+)\], m2: \[(?P<want>\d+) x (?P<out>\d+)\]",
    r"must have same reduction dim, but got \[(?P<rows>\d+), (?P<have>\d+)\] X \[(?P<want>\d+), (?P<out>\d+)\]",
)
OLD = (
    "RuntimeError: size mismatch, m1: [16 x 576], m2: [400 x 120] at ../aten/src/TH/generic/THTensorMath.cpp:752",
    "RuntimeError: a and b must have same reduction dim, but got [2, 3456] X [400, 120].",  # in torch.compile
)
WHY = (
    "A `Linear` multiplies the last dimension of its input with its weight; that dimension has to be its `in_features`."
    " After convolutions the number follows from the image size, the padding and the pooling, so that it changes when"
    " the images do."
)
CHECK = (
    "Print the shape in front of the flatten: `C*H*W` of it is the number the `Linear` needs. If the first number of the"
    " message is not the batch size, the batch was mixed into the features: flatten from dimension 1."
)


def explain(event: Event) -> Iterator[Cause]:
    """The Linear by its name where it is known, and both numbers; a product of the user's own is called that."""
    if "out" not in event.facts:
        yield _other_product(event)
        return
    rows, have, want, out = (int(event.facts[name]) for name in ("rows", "have", "want", "out"))
    module = event.live.module if event.live else None
    shape = first_input(module)
    if event.frames and event.frames[-1].is_users and "Linear" not in (module.kind if module else ""):
        yield _own_product(event, rows, have, want, out)
        return
    if shape is not None and len(shape.shape) == 4 and product(shape.shape[1:]) == want:
        return  # shape-missing-flatten
    layer = f"{module.name} ({module.kind})" if module and module.name else "a Linear"
    target = module.name if module and module.name else "the layer"
    came = f" of shape {shape_text(shape.shape)}" if shape is not None else ""
    yield Cause(
        CODE,
        NAME,
        what=f"{layer} takes {want} features and got {have}",
        why=f"the input{came} ends in {have}, the weight is {want}x{out}; {_why(event, have, want)}",
        fix=(
            f"nn.Linear({have}, {out})   # for {target}, if {have} is C*H*W of one image in front of the flatten",
            f"nn.LazyLinear({out})   # takes the number from the first batch",
            "nn.AdaptiveAvgPool2d(...) in front of the flatten   # the same number for any image size",
        ),
        likelihood="possible" if is_unflattened(rows, have, want) or is_other_backbone(have, want) else "likely",
    )


def _why(event: Event, have: int, want: int) -> str:
    maps = maps_of(have, want)
    outer = first_input(event.live.modules[0]) if event.live and len(event.live.modules) > 1 else None
    given = f"; the network was given {shape_text(outer.shape)}" if outer is not None and len(outer.shape) == 4 else ""
    if maps is None:
        return (
            f"after convolutions this is mostly another image size or pooling than the {want} was computed for{given}"
        )
    channels, here, there = maps
    return (
        f"{have} = {channels} * {here} * {here} and {want} = {channels} * {there} * {there} would be the same channels of"
        f" another image size{given}"
    )


def _other_product(event: Event) -> Cause:
    """Explain a product of batches of matrices, or of a matrix and a vector."""
    have, want = event.facts["have"], event.facts["want"]
    met = tensors_in_line(event)
    seen = f" ({' and '.join(f'{fact.name} {shape_text(fact.shape)}' for fact in met[:2])})" if len(met) > 1 else ""
    batch, other = event.facts.get("batch", ""), event.facts.get("batch2", "")
    if batch != other:
        what = f"a product of two batches of matrices, {batch} of them and {other}{seen}"
        why = "matrix by matrix needs as many on both sides; bmm does not broadcast"
        fix = ("torch.matmul(a, b)   # broadcasts a batch of 1; else the batches have to agree",)
    else:
        kind = "matrices in two batches" if batch else "a matrix and a vector"
        what = f"a product of {kind}: {have} columns meet {want} rows{seen}"
        why = "in a product of matrices the columns of the first are the rows of the second"
        second = met[1].name if len(met) > 1 else "b"
        turned = f"{second}.transpose(-2, -1)   # if both have the same shape, as queries and keys have"
        fix = (turned if batch else "print(matrix.shape, vector.shape)   # in front of the line",)
    return Cause(CODE, NAME, what=what, why=why, fix=fix)


def _own_product(event: Event, rows: int, have: int, want: int, out: int) -> Cause:
    met = tensors_in_line(event)
    seen = f" ({' and '.join(f'{fact.name} {shape_text(fact.shape)}' for fact in met[:2])})" if len(met) > 1 else ""
    second = met[1].name if len(met) > 1 else "b"
    fix = (
        [f"{second}.transpose(-2, -1)   # in the product: then {rows}x{have} meets {out}x{want}"] if have == out else []
    )
    fix.append(f"the last dimension of the first ({have}) has to be the first but last of the second ({want})")
    return Cause(
        CODE,
        NAME,
        what=f"a matrix product of {rows}x{have} and {want}x{out}: {have} is not {want}{seen}",
        why="in a product of matrices the columns of the first are the rows of the second",
        fix=tuple(fix),
    )


EXAMPLE = """
import torch
from torch import nn

classifier = nn.Sequential(nn.Flatten(), nn.Linear(400, 120))
classifier(torch.ones(16, 16, 6, 6))
"""
MENDED = """
import torch
from torch import nn

classifier = nn.Sequential(nn.Flatten(), nn.Linear(16 * 6 * 6, 120))
classifier(torch.ones(16, 16, 6, 6))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
