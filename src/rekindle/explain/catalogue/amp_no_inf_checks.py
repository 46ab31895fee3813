"""The scaler finds no gradients in this optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._sources import last_line_with
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-AMP-03", "amp-no-inf-checks", "0.2"
TITLE = "AssertionError: No inf checks were recorded for this optimizer."
RAISES = ("AssertionError",)
NEEDLES = ("No inf checks were recorded for this optimizer", "but _scale is None")
PATTERNS = (
    r"No inf checks were recorded for this optimizer",
    r"Attempted (?P<call>\w+) but _scale is None",
)
OLD = (
    "AssertionError: No inf checks were recorded for this optimizer.",
    (
        "AssertionError: Attempted step but _scale is None.  This may indicate your script did not use scaler.scale(loss or"
        " outputs) earlier in the iteration."
    ),
)
WHY = (
    "`scaler.step(optimizer)` divides the gradients by the scale and looks for infinities on the way; here no parameter of this"
    " optimizer has a gradient. `backward()` did not run on the scaled loss, all its parameters are frozen or took no part, or the"
    " optimizer holds other parameters than the model (it was built before a layer was replaced, or for another copy)."
)
CHECK = (
    '`[p.grad is None for g in optimizer.param_groups for p in g["params"]]`; and are these the model\'s parameters:'
    " `{id(p) for p in model.parameters()}`?"
)


def explain(event: Event) -> Iterator[Cause]:
    """`scale` was never called, or no gradient arrived."""
    right = "scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()"
    if event.facts.get("call"):
        yield Cause(
            CODE,
            NAME,
            what=f"scaler.{event.facts['call']}() was called, and scaler.scale(loss) never was",
            why="the scale is made at the first scaler.scale(loss)",
            fix=(
                f"{right}   # in this order",
                'torch.autocast("cuda", dtype=torch.bfloat16)   # needs no scaler at all',
            ),
            likelihood="certain",
        )
        return
    backward = last_line_with(event, r"\.backward\(")
    plain = backward and "scale(" not in backward and last_line_with(event, r"\w\s*=\s*\w+\.scale\(") == ""
    if event.live and not backward:
        why = "no backward() stands in front of this line, so that no parameter has a gradient"
    elif plain:
        why = f"no parameter of this optimizer has a gradient; and backward ran on a loss that was not scaled ({backward})"
    else:
        why = "backward() did not run, all its parameters are frozen or took no part in the loss, or it holds other parameters than the model"
    yield Cause(
        CODE,
        NAME,
        what="no parameter of this optimizer has a gradient when scaler.step() is called",
        why=why,
        fix=(
            f"{right}   # backward on the scaled loss, first",
            "if any(p.grad is not None for g in optimizer.param_groups for p in g['params']): scaler.step(optimizer)   # one of several optimizers",
            "optimizer = torch.optim.AdamW(model.parameters())   # built after the last change of the model",
        ),
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
loss = model(torch.ones(1, 2)).sum()
scaler.scale(loss)
scaler.step(optimizer)
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
loss = model(torch.ones(1, 2)).sum()
scaler.scale(loss).backward()
scaler.step(optimizer)
scaler.update()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
