"""The state of the last step is fed into the next one with its graph."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._states import carried
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-17", "grad-rnn-detach", "0.2"
TITLE = "Trying to backward through the graph a second time (hidden state of an LSTM, GRU or RNN)"
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
    "The hidden state that a recurrent layer returns hangs on the graph of its step. Fed into the next step, the next `backward()`"
    " goes back through both, and the first one is freed already. What is carried from step to step is to be a value, without"
    " its history."
)
CHECK = "It fails in the second step; a tensor that lives across the steps (`h`, `hidden`, `state`) has a `grad_fn`."


def explain(event: Event) -> Iterator[Cause]:
    """Likely where a state is seen; without live facts it is one of two."""
    name = carried(event)
    if not name and event.live:
        return
    shown = name or "hidden"
    is_tuple = bool(name and event.live and event.live.find_tensor(f"{name}[0]"))
    whole = f"{shown} = {shown}.detach()   # after each step"
    parts = f"{shown} = tuple(part.detach() for part in {shown})   # of an LSTM, which has two"
    yield Cause(
        CODE,
        NAME,
        what=f"{shown} is carried from step to step with the graph of the steps before"
        if name
        else "a state may be carried from step to step with its graph (if it fails in the second step)",
        why="the second backward() goes back into the first step, whose graph is freed; a state is to be carried as a value",
        fix=(
            *((whole, parts) if not is_tuple else (parts,)),
            "# retain_graph=True is no mending: each step would go back through all steps before it",
        ),
        likelihood="likely" if name else "possible",
    )


EXAMPLE = """
import torch
from torch import nn

rnn, hidden = nn.GRU(2, 2), None
for step in range(2):
    out, hidden = rnn(torch.ones(1, 1, 2), hidden)
    (out.mean() + hidden.pow(2).mean()).backward()
"""
MENDED = """
import torch
from torch import nn

rnn, hidden = nn.GRU(2, 2), None
for step in range(2):
    out, hidden = rnn(torch.ones(1, 1, 2), hidden)
    (out.mean() + hidden.pow(2).mean()).backward()
    hidden = hidden.detach()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
