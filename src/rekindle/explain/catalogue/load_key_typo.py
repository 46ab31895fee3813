"""The checkpoint has no entry of that name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, MappingFact
from rekindle.keys import near_names

CODE, NAME, SINCE = "RK-LOAD-12", "load-key-typo", "0.2"
TITLE = "KeyError: 'optimizer_state_dict' (reading a checkpoint)"
RAISES = ("KeyError",)
NEEDLES = ("KeyError: '",)
PATTERNS = (r"^KeyError: '(?P<key>[\w.\- ]{1,100})'",)
OLD: tuple[str, ...] = ()
WHY = (
    "A training checkpoint is a dictionary, and its keys are whatever the saving code called them. A spelling that differs"
    " between saving and loading (`optimizer_stat_dict`), or a file of another trainer, ends in this `KeyError`."
)
CHECK = "`rekindle inspect FILE --tree` lists the entries; `print(checkpoint.keys())` does it in Python."


def explain(event: Event) -> Iterator[Cause]:
    """Only where a checkpoint was read: the nearest of its keys if it is still there."""
    key = event.facts["key"]
    frame = event.user_frame
    code = frame.code if frame else ""
    held = None
    if event.live:
        named = _SUBSCRIPT.findall(code)
        held = event.live.find_mapping(*named) if named else None
        if held is None and named:
            return
        if held and not (_is_checkpoint(held, code) or _READS.search(code)):
            return  # a batch, a configuration: a dict of the user's own
    if held is None and (_SETTINGS.search(code) and not _READS.search(code)):
        return
    if held is None and not (_READS.search(code) or (_NAMED.search(code) and _STATE.search(key))):
        return
    file = checkpoint_of(event)
    near = near_names(key, held.keys) if held else []
    there = f"; it has {listed(held.keys, 6)}" if held else ""
    fix = [f'{held.name}["{near[0]}"]   # the nearest key that is there'] if held and near else []
    fix.append(f"rekindle inspect {file} --tree   # which entries the file has")
    yield Cause(
        CODE,
        NAME,
        what=f"the checkpoint has no entry {key!r}{there}",
        why="the code that saved it used another name, or it is the file of another trainer",
        fix=tuple(fix),
        likelihood="certain" if held else "likely",
    )


_SUBSCRIPT = re.compile(r"(\w+)\[")
_READS = re.compile(r"load_state_dict\(|torch\.load\(")
_NAMED = re.compile(r"\b(?:ck|(?:ckpt|checkpoint|check_point|snapshot|saved)(?!s\b)\w*)\[")
_SETTINGS = re.compile(r"\b\w*(?:cfg|config|conf|settings|opts?|args|params|hparams|options|logs?|metrics|history)\[")
_STATE = re.compile(r"state|optim|model|sched|epoch|net|scaler|ema|step|weights|loss|best")
_PARTS = re.compile(r"state_dict|optim|sched|scaler|^epoch$|^model$")


def _is_checkpoint(held: MappingFact, code: str) -> bool:
    """Whether these are the entries of a training checkpoint, or the names of a state dict; settings have such keys too."""
    if any(key.endswith((".weight", ".bias")) for key in held.keys):
        return True
    parts = sum(bool(_PARTS.search(key)) for key in held.keys)
    if _SETTINGS.search(code) or not parts:
        return False
    return bool(_NAMED.search(code)) or parts > 1 or any("state_dict" in key for key in held.keys)


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
torch.save({"model_state_dict": model.state_dict(), "optimizer_stat_dict": optimizer.state_dict()}, "last.pt")

checkpoint = torch.load("last.pt")
optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
torch.save({"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, "last.pt")

checkpoint = torch.load("last.pt")
optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
