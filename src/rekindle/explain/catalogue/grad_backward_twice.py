"""A part of the graph was used in an earlier `backward()`."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._states import carried
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-02", "grad-backward-twice", "0.2"
TITLE = "Trying to backward through the graph a second time"
RAISES = ("RuntimeError",)
NEEDLES = ("backward through the graph a second time",)
PATTERNS = (r"Trying to backward through the graph a second time",)
OLD = (
    (
        "RuntimeError: Trying to backward through the graph a second time, but the buffers have already been freed. Specify"
        " retain_graph=True when calling backward the first time."
    ),
)
WHY = (
    "`backward()` frees what the forward pass kept. A second pass over the same piece of the graph then fails: `backward()` called"
    " twice on one loss, a tensor computed once in front of the loop and used in every step, or something carried from step to"
    " step with its graph. `retain_graph=True` hides the last two: each step then goes back through all steps before it, slower"
    " and slower, until the memory is full."
)
CHECK = (
    "Does it fail at the second step of the loop? Then look for tensors with a `grad_fn` that were made outside of it."
)


def explain(event: Event) -> Iterator[Cause]:
    """The general case; a state that is carried along has an entry of its own."""
    held = _held(event)
    seen = f"; held here with a graph: {listed(held)}" if held else ""
    yield Cause(
        CODE,
        NAME,
        what="backward() went through a part of the graph that an earlier backward() had freed",
        why=f"backward() ran twice on one loss, or a tensor computed once in front of the loop is used in every step{seen}",
        fix=(
            "compute it inside of the loop, from the weights as they are now",
            "(loss_a + loss_b).backward()   # two losses of one forward pass: one call",
            "features = features.detach()   # if no gradient is meant to flow through it",
            "loss_a.backward(retain_graph=True)   # only if two passes over one graph are meant",
        ),
        likelihood="possible" if carried(event) else "likely",
    )


def _held(event: Event) -> list[str]:
    frame = event.live.user_frame if event.live else None
    if frame is None:
        return []
    return [fact.name for fact in frame.tensors if fact.requires_grad and frame.kinds.get(fact.name) != "Parameter"][:6]


EXAMPLE = """
import torch

x = torch.ones(3, requires_grad=True)
features = x * x
for scale in (1, 2):
    loss = (features * scale).sum()
    loss.backward()
"""
MENDED = """
import torch

x = torch.ones(3, requires_grad=True)
for scale in (1, 2):
    features = x * x
    loss = (features * scale).sum()
    loss.backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
