"""`unscale_` or `step` ran twice between two `update()`."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._sources import last_line_with
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-AMP-04", "amp-unscale-twice", "0.2"
TITLE = "unscale_() has already been called on this optimizer since the last update()."
RAISES = ("RuntimeError",)
NEEDLES = (
    "unscale_() has already been called",
    "step() has already been called since the last update()",
    "unscale_() is being called after step()",
)
PATTERNS = (
    r"(?P<unscale>unscale_\(\)) has already been called on this optimizer since the last update\(\)",
    r"(?P<step>step\(\)) has already been called since the last update\(\)",
    r"(?P<after>unscale_\(\) is being called after step\(\))",
)
OLD = ("RuntimeError: unscale_() has already been called on this optimizer since the last update().",)
WHY = (
    "`unscale_` divides the gradients by the scale, once per step of the optimizer, right in front of clipping; a second time would"
    " divide them again. It runs twice where both the loop and a framework call it, where it is called for each small batch of an"
    " accumulated step, or where `scaler.update()` is missing at the end of the step."
)
CHECK = "How often each of `unscale_`, `step` and `update` is called per step of the optimizer: once each."


def explain(event: Event) -> Iterator[Cause]:
    """Which call came twice or in the wrong order."""
    facts = event.facts
    order = (
        "scaler.unscale_(optimizer); clip_grad_norm_(model.parameters(), 1.0); scaler.step(optimizer); scaler.update()"
    )
    update = last_line_with(event, r"\.update\(\)")
    loops = last_line_with(event, r"unscale_\(")
    if facts.get("after"):
        what, why = (
            "unscale_() is called after step()",
            "step() has used the gradients already; to clip them, unscale_ and clip come first",
        )
    elif facts.get("step"):
        what, why = (
            "scaler.step() is called twice for this optimizer without scaler.update() in between",
            "the scale is adapted once a step",
        )
    else:
        what = "the gradients of this optimizer are divided by the scale a second time"
        why = "unscale_() ran for each small batch of an accumulated step, both by hand and in a framework, or update() is missing"
        if event.live and not update and loops:
            why = "unscale_() runs again, and there is no scaler.update() in front of it: after each step of the optimizer there has to be one"
    yield Cause(
        CODE,
        NAME,
        what=what,
        why=why,
        fix=(
            f"{order}   # once each, in this order",
            "if (batch + 1) % accumulate == 0:   # around all of it, when gradients are accumulated",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
for batch in range(2):
    scaler.scale(model(torch.ones(1, 2)).sum() / 2).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
scaler.step(optimizer)
scaler.update()
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
for batch in range(2):
    scaler.scale(model(torch.ones(1, 2)).sum() / 2).backward()
scaler.unscale_(optimizer)
nn.utils.clip_grad_norm_(model.parameters(), 1.0)
scaler.step(optimizer)
scaler.update()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
