"""A value that the backward pass needs was overwritten."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._sources import last_line_with
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-01", "grad-inplace", "0.2"
TITLE = "one of the variables needed for gradient computation has been modified by an inplace operation"
RAISES = ("RuntimeError",)
NEEDLES = ("has been modified by an inplace operation",)
PATTERNS = (
    r"modified by an inplace operation: \[torch\.(?P<type>[\w.]+) \[(?P<shape>[\d, ]*)\]\](?:, which is output (?P<output>\d+) of (?P<node>\w+),)? is at version (?P<have>\d+); expected version (?P<want>\d+) instead",
    r"has been modified by an inplace operation",
)
OLD = (
    (
        "RuntimeError: one of the variables needed for gradient computation has been modified by an inplace operation:"
        " [torch.FloatTensor [3]], which is output 0 of SigmoidBackward, is at version 1; expected version 0 instead. Hint: enable"
        " anomaly detection to find the operation that failed to compute its gradient, with"
        " torch.autograd.set_detect_anomaly(True)."
    ),
    "RuntimeError: one of the variables needed for gradient computation has been modified by an inplace operation",
)
WHY = (
    "Some operations keep a value for the backward pass: `sigmoid`, `exp` and `relu` their result, a product its factors. If that"
    " tensor is written into before `backward()` (`y += 1`, `y[:, 0] = 0`, `relu(inplace=True)`), the gradient would be wrong, and"
    " PyTorch refuses. If the tensor is a weight, it was written by `optimizer.step()` between two backward passes over the same"
    " forward pass, as in the training of GANs."
)
CHECK = (
    "The shape in the message: is it a parameter's? Otherwise `torch.autograd.set_detect_anomaly(True)` for one step: the warning"
    " above the error then names the line of the forward pass."
)
_WEIGHTS = frozenset(
    (
        "AsStrided",
        "AsStridedBackward0",
        "T",
        "TBackward",
        "TBackward0",
        "Transpose",
        "TransposeBackward0",
        "Permute",
        "PermuteBackward0",
    )
)
_WRITES = r"^[\w.\[\], :'\"]+\s*(?:\+|-|\*|/)=(?!=)|^\w[\w.]*\[[^=]*\]\s*=(?!=)|\.\w+_\([^)]*\)|inplace=True"


def explain(event: Event) -> Iterator[Cause]:
    """Whether it is a weight that a step changed, or a result that was written into."""
    facts = event.facts
    shape = numbers(facts.get("shape", ""))
    node = facts.get("node", "")
    plain = node.removesuffix("0").removesuffix("Backward").lower()
    said = f"a tensor of shape {shape_text(shape)}" if facts.get("type") else "a tensor"
    made = f", the result of {plain}," if node and node not in _WEIGHTS else ""
    times = int(facts["have"]) - int(facts["want"]) if facts.get("have") else 0
    often = f" {times} times" if times > 1 else ""
    step = (
        "step both optimizers after both backward passes",
        "loss2 = criterion(model2(model1(x)), y)   # or compute the second loss again after the first step",
    )
    if node in _WEIGHTS:
        yield Cause(
            CODE,
            NAME,
            what=f"a weight of shape {shape_text(shape[::-1] if node.startswith('T') else shape)} was changed between forward and backward",
            why="its transposed view was kept for the backward pass, which is what a Linear does with its weight; mostly"
            " optimizer.step() ran in between (two losses, two optimizers)",
            fix=step,
        )
        return
    wrote = last_line_with(event, _WRITES)
    fix = [
        "y = y + 1   # in place of y += 1; x = x.clone() before writing into a slice",
        "torch.autograd.set_detect_anomaly(True)   # for one step: names the line of the forward pass whose value was lost",
    ]
    if plain in {"relu", "leakyrelu", "elu", "hardtanh", "relu6"}:
        fix.insert(0, "nn.ReLU(inplace=False)")
    seen = f"; written in place in {wrote}" if wrote else ""
    yield Cause(
        CODE,
        NAME,
        what=f"{said}{made} was overwritten{often} after the forward pass had kept it",
        why=f"the backward pass needs the value as it was{seen}"
        + (
            ""
            if node or not facts.get("type")
            else "; no operation made it: it is an input, or a weight that optimizer.step() changed"
        ),
        fix=(*fix, step[0] + "   # if it is a weight") if not node else tuple(fix),
    )


EXAMPLE = """
import torch
from torch import nn

hidden = nn.Linear(4, 3)(torch.ones(2, 4))
gate = hidden.sigmoid()
gate += 1
gate.sum().backward()
"""
MENDED = """
import torch
from torch import nn

hidden = nn.Linear(4, 3)(torch.ones(2, 4))
gate = hidden.sigmoid()
gate = gate + 1
gate.sum().backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
