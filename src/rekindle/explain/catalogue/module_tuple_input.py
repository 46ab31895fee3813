"""A layer got a tuple: LSTM, GRU and attention return more than one thing."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._not_tensors import NEEDLES as _NEEDLES
from rekindle.explain.catalogue._not_tensors import PATTERNS as _PATTERNS
from rekindle.explain.catalogue._not_tensors import given_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-20", "module-tuple-input", "0.2"
TITLE = "TypeError: linear(): argument 'input' (position 1) must be Tensor, not tuple"
RAISES = ("TypeError", "AttributeError")
NEEDLES = _NEEDLES
PATTERNS = _PATTERNS
OLD = (
    "AttributeError: 'tuple' object has no attribute 'dim'",
    "TypeError: dropout(): argument 'input' (position 1) must be Tensor, not tuple",
)
WHY = "`nn.LSTM` and `nn.GRU` return the output and the hidden state, `nn.MultiheadAttention` the output and the weights, models of Transformers a whole object. The next layer, also the next one of an `nn.Sequential`, gets all of it."
CHECK = "`type(x)` and what the layer in front returns."
_OF_TENSORS = {
    "dim",
    "size",
    "shape",
    "view",
    "reshape",
    "float",
    "to",
    "cuda",
    "squeeze",
    "unsqueeze",
    "permute",
    "transpose",
    "mean",
    "sum",
    "softmax",
    "argmax",
    "detach",
    "backward",
    "contiguous",
    "flatten",
    "dtype",
    "device",
    "cpu",
    "numpy",
}


def explain(event: Event) -> Iterator[Cause]:
    """The layer in front where the modules are alive."""
    given = given_of(event)
    if given.got != "tuple" or (given.attribute and given.attribute not in _OF_TENSORS):
        return
    if (
        given.attribute
        and not given.is_in_layer
        and event.frames
        and not any("torch" in frame.path for frame in event.frames)
        and not _is_output(code_of(event))
    ):
        return
    sequential = bool(event.live) and any(fact.kind == "Sequential" for fact in event.live.modules)  # type: ignore[union-attr] # checked
    yield Cause(
        CODE,
        NAME,
        what=f"{given.taker} got a tuple, not a tensor"
        if not given.attribute or given.is_in_layer
        else f"{given.attribute} was asked of a tuple, not of a tensor",
        why="the layer in front returns more than one thing: LSTM and GRU the output and the hidden state, MultiheadAttention the output and the weights",
        fix=(
            "class First(nn.Module): forward = lambda self, pair: pair[0]   # in the Sequential, behind the LSTM",
            "out, _ = self.lstm(x)   # or out of the Sequential: unpack, and pass out on",
        )
        if sequential
        else (
            "out, _ = self.lstm(x)   # unpack, and pass out on",
            "output[0]   # the first of it; Transformers: output.logits",
        ),
        likelihood="certain" if not given.attribute else "likely",
    )


def _is_output(code: str) -> bool:
    return any(
        word in code
        for word in ("output", "out.", "out)", "logits", "loss", "model", "pred", "hidden", "features", "x.")
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Sequential(nn.LSTM(2, 2), nn.Linear(2, 1))
model(torch.ones(1, 1, 2))
"""
MENDED = """
import torch
from torch import nn

class Output(nn.Module):
    def forward(self, pair):
        return pair[0]

model = nn.Sequential(nn.LSTM(2, 2), Output(), nn.Linear(2, 1))
model(torch.ones(1, 1, 2))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
