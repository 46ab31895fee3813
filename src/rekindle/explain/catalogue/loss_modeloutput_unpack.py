"""A model's output that is a dict was unpacked, which gives its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._sources import last_line_with
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-07", "loss-modeloutput-unpack", "0.2"
TITLE = "AttributeError: 'str' object has no attribute 'backward'"
RAISES = ("AttributeError",)
NEEDLES = ("'str' object has no attribute",)
PATTERNS = (
    r"'str' object has no attribute '(?P<attribute>backward|item|detach|argmax|softmax|logits|shape|cpu|loss)'",
)
OLD = ("AttributeError: 'str' object has no attribute 'backward'",)
WHY = (
    "Since version 4 the models of Transformers return a dict-like object. `loss, logits = model(...)` walks over it, as over any"
    ' dict, and gets the names of its fields: `loss` is the text "loss".'
)
CHECK = "`print(repr(loss))`: 'loss'."
_UNPACKED = r"^\(?\s*\w+\s*,\s*[\w, ]+\)?\s*=\s*\w[\w.]*\("


def explain(event: Event) -> Iterator[Cause]:
    """Certain for `backward`; for other methods only where the frames show a text of that name."""
    attribute = event.facts["attribute"]
    found = re.search(rf"([A-Za-z_]\w*)\.{attribute}\b", code_of(event))
    name = found[1] if found else "loss"
    value = event.live.find_plain(name) if event.live else None
    fields = ("loss", "logits", "last_hidden_state", "pooler_output", "hidden_states", "attentions", "past_key_values")
    if attribute != "backward" and value not in fields:
        return
    text = f"the text {value!r}" if isinstance(value, str) else "a text"
    line = last_line_with(event, _UNPACKED)
    yield Cause(
        CODE,
        NAME,
        what=f"{name} is {text}: the name of a field, not its value",
        why=f"a dict was unpacked ({line}), which gives its keys"
        if line
        else "a model's output that is a dict (Transformers since 4) was unpacked, which gives its keys",
        fix=(
            "out = model(...); loss, logits = out.loss, out.logits",
            "loss, logits = model(..., return_dict=False)[:2]   # a tuple, as before",
        ),
        likelihood="certain" if value in fields else "likely",
    )


EXAMPLE = """
import torch
from collections import OrderedDict

def model(x):
    return OrderedDict(loss=x.sum(), logits=x)

x = torch.ones(2, requires_grad=True)
loss, logits = model(x)
loss.backward()
"""
MENDED = """
import torch
from collections import OrderedDict

def model(x):
    return OrderedDict(loss=x.sum(), logits=x)

x = torch.ones(2, requires_grad=True)
out = model(x)
loss, logits = out["loss"], out["logits"]
loss.backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
