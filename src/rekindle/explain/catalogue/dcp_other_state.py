"""A distributed checkpoint does not hold what the state to be filled asks for."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-44", "dcp-other-state", "0.2"
TITLE = "RuntimeError: Missing key in checkpoint state_dict: b."
RAISES = ("RuntimeError", "ValueError", "CheckpointException")
NEEDLES = ("Missing key in checkpoint state_dict:", "Size mismatch between saved ")
PATTERNS = (
    r"Missing key in checkpoint state_dict: (?P<key>[^\n]{1,300}?)\.$",
    r"Size mismatch between saved (?:torch\.Size\()?\[(?P<have>[\d, ]*)\]\)? and current: (?:torch\.Size\()?\[(?P<want>[\d, ]*)\]\)? for (?P<sized>[^\n\s]{1,300})",
)
OLD: tuple[str, ...] = (
    "ValueError: Size mismatch between saved torch.Size([2]) and current: torch.Size([5]) for weight",
)
WHY = "`dcp.load` fills the tensors that it is given: each name has to be in the checkpoint, with the same sizes. What the state has more than the checkpoint (a new layer, another wrapper in front of the names, `model.` or not) is an error."
CHECK = "`rekindle inspect FOLDER --tree` lists names and sizes."


def explain(event: Event) -> Iterator[Cause]:
    """The name, and both sizes where those differ."""
    facts = event.facts
    fix: tuple[str, ...]
    if facts.get("key", ""):
        what = f"the checkpoint has no entry {facts['key']}"
        why = "dcp.load fills what it is given, and each name of that has to be there: another nesting, a wrapper's prefix, or a part that was not saved"
        fix = (
            "rekindle inspect FOLDER --tree   # the names that it has",
            "dcp.load(state, checkpoint_id=..., planner=DefaultLoadPlanner(allow_partial_load=True))   # leaves what is missing as it is",
        )
    else:
        what = f"{facts['sized']} has shape [{facts['have']}] in the checkpoint and [{facts['want']}] in the state to be filled"
        why = "the model was built with other settings than when it was saved: classes, width, vocabulary"
        fix = ("rekindle inspect FOLDER --tree   # the sizes that it has; build the model with these",)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch
import torch.distributed.checkpoint as dcp

dcp.save({"weight": torch.ones(2)}, checkpoint_id="step-1")
dcp.load({"weight": torch.ones(2), "bias": torch.ones(3)}, checkpoint_id="step-1")
"""
MENDED = """
import torch
import torch.distributed.checkpoint as dcp

dcp.save({"weight": torch.ones(2)}, checkpoint_id="step-1")
dcp.load({"weight": torch.ones(2)}, checkpoint_id="step-1")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
