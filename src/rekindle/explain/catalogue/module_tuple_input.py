"""A layer got a tuple: LSTM, GRU and attention return more than one thing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, is_in
from rekindle.explain.catalogue._not_tensors import NEEDLES as _NEEDLES
from rekindle.explain.catalogue._not_tensors import PATTERNS as _PATTERNS
from rekindle.explain.catalogue._not_tensors import given_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-20", "module-tuple-input", "0.2"
TITLE = "TypeError: linear(): argument 'input' (position 1) must be Tensor, not tuple"
RAISES = ("TypeError", "AttributeError")
NEEDLES = (*_NEEDLES, "tuple indices must be integers or slices, not tuple")
PATTERNS = (*_PATTERNS, r"(?P<got>tuple) indices must be integers or slices, not (?P<sliced>tuple)")
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
    if given.got != "tuple" or _LOSS.search(event.facts.get("op", "")) or is_in(event, "torch/nn/modules/loss.py"):
        return  # loss-output-object
    if given.attribute and given.attribute not in _OF_TENSORS:
        return
    holder = _holder(event, given.attribute)
    sliced = bool(event.facts.get("sliced"))
    if sliced and not holder:
        return  # a tuple of the user's own
    if given.attribute and not given.is_in_layer and not holder and not _is_tensors_own(event, given.attribute):
        return
    sequential = bool(event.live) and any(fact.kind == "Sequential" for fact in event.live.modules)  # type: ignore[union-attr] # checked
    yield Cause(
        CODE,
        NAME,
        what=f"{holder} is a tuple{' of tensors' if event.live else ''}, not a tensor"
        if holder and not given.is_in_layer
        else f"{given.taker} got a tuple, not a tensor"
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
        likelihood="possible"
        if given.attribute and not event.frames
        else "likely"
        if (given.attribute or sliced) and not (event.live and holder)
        else "certain",
    )


def _holder(event: Event, attribute: str) -> str:
    """Return the variable of the user's line that is a tuple of tensors; from text only one with the name of an output."""
    asked = rf"\b(\w+)\.{attribute}\b" if attribute else r"\b(\w+)\[[^\]]{0,60}[,:]"
    names = re.findall(asked, code_of(event))
    frame = event.live.user_frame if event.live else None
    if frame is not None:
        return next((name for name in names if frame.kinds.get(name) == "tuple" and frame.tensor(f"{name}[0]")), "")
    return next((name for name in names if _OUTPUT.fullmatch(name)), "")


def _is_tensors_own(event: Event, attribute: str) -> bool:
    """Whether nothing but a tensor has such an attribute, where no line tells more; sizes and shapes others have too."""
    return not event.frames and attribute not in {"size", "shape", "dtype", "to", "mean", "sum", "float", "device"}


_LOSS = re.compile(r"_loss|^kl_div$|^binary_cross_entropy")
_OUTPUT = re.compile(r"outs?|outputs?|logits|preds?|predictions?|hidden|hidden_states?|y_hat|y_pred")


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
