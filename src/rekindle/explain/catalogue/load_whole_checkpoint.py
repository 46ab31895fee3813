"""The whole training checkpoint was given to `load_state_dict`; the weights lie one level down."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, stem_of
from rekindle.explain.catalogue._state_dicts import NEEDLES as LOADING
from rekindle.explain.catalogue._state_dicts import PATTERN, fault_of, refused_of, weights_entry
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-35", "load-whole-checkpoint", "0.2"
TITLE = 'Missing key(s) in state_dict: "weight". Unexpected key(s) in state_dict: "epoch", "model_state_dict", "optimizer_state_dict"'
RAISES = ("RuntimeError",)
NEEDLES = LOADING
PATTERNS = (PATTERN,)
OLD: tuple[str, ...] = ()
WHY = (
    "A training checkpoint is a dictionary with the weights in one entry and the optimizer, the epoch and more beside it."
    " Given whole to `load_state_dict`, each of its entries is an unexpected key and every key of the model is missing."
)
CHECK = "`rekindle inspect FILE --tree` shows the entries and what each holds."


def explain(event: Event) -> Iterator[Cause]:
    """Names the entry that should hold the weights, as the message lists it."""
    refused = refused_of(event)
    if fault_of(refused) != "whole":
        return
    key = weights_entry(refused.unexpected)
    file, stem = checkpoint_of(event), stem_of(event)
    yield Cause(
        CODE,
        NAME,
        what=f"a whole training checkpoint was given to load_state_dict of {refused.model or 'the model'}; its weights are under {key!r}",
        why=f"its entries are {listed(refused.unexpected, 5)}: not names of parameters",
        fix=(
            f'model.load_state_dict(checkpoint["{key}"])',
            f"rekindle convert {file} {stem}.weights.pth --take {key}   # or once, in the file: the weights alone",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
torch.save({"epoch": 3, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, "last.pt")

checkpoint = torch.load("last.pt")
model.load_state_dict(checkpoint)
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
torch.save({"epoch": 3, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, "last.pt")

checkpoint = torch.load("last.pt")
model.load_state_dict(checkpoint["model_state_dict"])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
