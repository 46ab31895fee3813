"""The loss or a gradient is not a finite number any more."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-10", "grad-explosion-nan", "0.2"
TITLE = "loss is nan; Function 'SqrtBackward0' returned nan values in its 0th output."
RAISES = ("RuntimeError", "ValueError", "FloatingPointError")
NEEDLES = (
    "returned nan values in its",
    "but found invalid values",
    "has invalid values",
    "is non-finite, so it cannot be clipped",
    "is non-finite, stopping training",
    "oss: nan",
    "oss=nan",
    "oss nan",
    "oss = nan",
    "Loss is nan",
)
PATTERNS = (
    r"Function '(?P<node>\w+)' returned nan values in its (?P<output>\d+)th output",
    r"Expected parameter (?P<parameter>\w+) \((?:Tensor|Parameter) of shape \((?P<shape>[\d, ]*)\)\) of distribution (?P<distribution>\w+)\([\s\S]*?but found invalid values:[\s\S]{0,400}?nan",
    r"The parameter (?P<old>\w+) has invalid values",
    r"The total norm of order [\w.]+ for gradients from `parameters` is (?P<norm>non-finite), so it cannot be clipped",
    r"(?i:loss)(?: is |: | = |=| )(?P<printed>nan)\b",
    r"Loss is (?P<stopped>-?inf|nan), stopping training",
)
OLD = (
    "epoch 3 step 120 loss: nan",
    "ValueError: The parameter loc has invalid values",
)
WHY = (
    "A number became infinite or undefined, and everything computed from it after that. Mostly the learning rate or the initial"
    " weights are too large, so that the weights run away within some steps; or an operation has no value or no slope where it was"
    " asked: `log(0)`, `sqrt(0)`, a division by zero, a standard deviation of one value. In half precision numbers above 65504 are"
    " infinite already. And the data can hold NaN itself. The line that fails is often only where it was noticed."
)
CHECK = (
    "Which is the first step whose loss is not finite, and how did the norm of the gradients go before it? `torch.isfinite(batch)"
    ".all()`. `with torch.autograd.detect_anomaly():` for that one step names the operation."
)
_OPERATIONS = {
    "sqrt": ("the slope of sqrt is infinite at 0", "torch.sqrt(x + 1e-12)   # or x.clamp_min(1e-12).sqrt()"),
    "log": (
        "log of 0 is minus infinity",
        "torch.log(x.clamp_min(1e-8))   # or log_softmax, which does not need the exponential",
    ),
    "div": ("something was divided by 0, or by almost 0", "a / (b + 1e-8)"),
    "pow": ("a power has no slope at 0 (below 1), or overflowed", "x.clamp_min(1e-12) ** p"),
    "norm": ("the slope of a norm is undefined at 0", "torch.linalg.vector_norm(x + 1e-12)"),
    "linalgvectornorm": ("the slope of a norm is undefined at 0", "torch.linalg.vector_norm(x + 1e-12)"),
    "std": ("the slope of a standard deviation is undefined where all values are equal", "torch.sqrt(x.var() + 1e-12)"),
    "exp": (
        "exp overflows above 88 in float32, above 11 in float16",
        "torch.exp(x.clamp(max=20))   # or logsumexp, softplus",
    ),
    "acos": ("acos has an infinite slope at -1 and 1", "torch.acos(x.clamp(-1 + 1e-6, 1 - 1e-6))"),
    "atan2": ("atan2 has no slope at (0, 0)", "torch.atan2(y, x + 1e-12)"),
}


def explain(event: Event) -> Iterator[Cause]:
    """The operation that anomaly mode named, else where it was noticed."""
    facts = event.facts
    general = (
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)   # in front of optimizer.step()",
        "lr=...   # a tenth of it, or a warm-up over the first steps",
        "assert torch.isfinite(batch).all()   # the data itself",
    )
    if facts.get("node"):
        name = facts["node"].removesuffix("0").removesuffix("Backward")
        why, line = _OPERATIONS.get(
            name.lower(),
            (
                "its input was 0, infinite or not a number already",
                f"print(torch.isfinite(x).all())   # of what goes into {name.lower()}",
            ),
        )
        yield Cause(
            CODE,
            NAME,
            what=f"the gradient of {name.lower()} is not a number",
            why=why,
            fix=(line, *general[:2]),
            likelihood="certain",
        )
        return
    anomaly = "with torch.autograd.detect_anomaly():   # for one step: names the operation that gave the first nan"
    if facts.get("parameter"):
        what = f"{facts['parameter']} of the distribution {facts['distribution']}, of shape [{facts['shape'].rstrip(',')}], holds nan"
    elif facts.get("old"):
        what = f"{facts['old']} of a distribution holds nan, or is outside of what it may be"
    elif facts.get("norm"):
        what = "the gradients hold inf or nan, so that they cannot be clipped"
    else:
        what = f"the loss is {facts.get('printed') or facts.get('stopped') or 'nan'}"
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="something ran away before this line: a learning rate that is too large, log(0), sqrt(0), a division by zero,"
        " overflow in half precision, or nan in the data",
        fix=(
            anomaly,
            *general,
            "torch.autocast(..., dtype=torch.bfloat16)   # in place of float16, which ends at 65504",
        ),
    )


EXAMPLE = """
import torch

with torch.autograd.detect_anomaly():
    x = torch.zeros(2, requires_grad=True)
    distance = (x * x).sum().sqrt()
    distance.backward()
"""
MENDED = """
import torch

with torch.autograd.detect_anomaly():
    x = torch.zeros(2, requires_grad=True)
    distance = ((x * x).sum() + 1e-12).sqrt()
    distance.backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
