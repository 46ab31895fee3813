"""A layer whose weights were never loaded is used."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, running, tensors_in_line
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-19", "device-meta-forward", "0.2"
TITLE = "Tensor on device meta is not on the expected device cpu!"
RAISES = ("RuntimeError", "NotImplementedError")
NEEDLES = ("on the expected device", "cannot be called on meta tensors")
PATTERNS = (
    r"Tensor on device (?P<a>[\w:]+) is not on the expected device (?P<b>[\w:]+)!",
    r"(?P<item>Tensor\.item\(\) cannot be called on meta tensors)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "On the `meta` device a parameter has a shape and no values. A model is built there to be filled from a file; what the file"
    " did not have, or what was copied with `load_state_dict` without `assign=True`, is still empty when the model is called."
    " The same words come when a real input meets such a model, or the reverse."
)
CHECK = "`[name for name, p in model.named_parameters() if p.is_meta]`."


def explain(event: Event) -> Iterator[Cause]:
    """Which parameters are empty, where they can be seen."""
    if event.facts.get("a") and "meta" not in {event.facts["a"], event.facts["b"]}:
        return
    module = running(event)
    empty = (
        [
            f"{module.name}.{fact.name}" if module.name else fact.name
            for fact in module.parameters
            if fact.device == "meta"
        ]
        if module
        else []
    )
    others = [fact.name for fact in tensors_in_line(event) if fact.device == "meta"]
    if empty:
        what = f"{called(module, '')} was called, and its weights have no values: {listed(empty)} on meta"
    else:
        what = (
            f"{listed(others)} on meta: a tensor without values was used"
            if others
            else "a tensor without values (on meta) was used"
        )
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="the model was built on meta, without memory, and these parameters were not filled from a file since",
        fix=(
            "model.load_state_dict(state, assign=True)   # takes the tensors of the file; without assign meta stays meta",
            "print([name for name, p in model.named_parameters() if p.is_meta])   # what the file did not have",
            'model.to_empty(device="cpu")   # memory without values: then initialise every parameter',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(2, 2, device="meta"))
model(torch.ones(1, 2))
"""
MENDED = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(2, 2, device="meta"))
model.load_state_dict({"0.weight": torch.eye(2), "0.bias": torch.zeros(2)}, assign=True)
model(torch.ones(1, 2))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
