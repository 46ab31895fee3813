"""What `torch.load` gave is a dict of tensors, and it is used as a model."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of
from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, MappingFact

CODE, NAME, SINCE = "RK-LOAD-11", "load-statedict-is-not-a-module", "0.2"
TITLE = "AttributeError: 'collections.OrderedDict' object has no attribute 'eval'"
RAISES = ("AttributeError", "TypeError")
NEEDLES = (
    "OrderedDict' object ",
    "'dict' object has no attribute",
    "'dict' object is not callable",
    "Expected state_dict to be dict-like",
)
PATTERNS = (
    r"'(?P<type>(?:collections\.)?OrderedDict|dict)' object has no attribute '(?P<name>eval|cuda|cpu|to|train|half|float|parameters|state_dict|load_state_dict|forward|modules|named_parameters|requires_grad_|generate)'",
    r"'(?P<type>(?:collections\.)?OrderedDict|dict)' object is not callable",
    r"Expected state_dict to be dict-like, got <class '(?P<given>[\w.]+)'>",
)
OLD = (
    "AttributeError: 'OrderedDict' object has no attribute 'cuda'",
    "TypeError: 'collections.OrderedDict' object is not callable",
)
WHY = (
    "A checkpoint mostly holds a state dict: names and tensors, no model. `torch.load` gives back what was saved, a"
    " dictionary, which cannot be called or put into evaluation mode. The model comes from its class; the dictionary fills"
    " it."
)
CHECK = "`rekindle inspect FILE` says what the file holds: a state dict, a training checkpoint, or a whole model."


def explain(event: Event) -> Iterator[Cause]:
    """A state dict or a training checkpoint; the user's own name of the variable where it is known."""
    file = checkpoint_of(event)
    if "given" in event.facts:
        yield _no_state_dict(event, event.facts["given"].rpartition(".")[2])
        return
    kind, name = event.facts["type"], event.facts.get("name", "")
    ordered = kind.endswith("OrderedDict")
    if not ordered and not name and not event.live:
        return  # any dict can be called by mistake; only an attribute of a module speaks of a checkpoint
    code = code_of(event)
    if not ordered and name and code and not _is_of_a_model(name, code):
        return  # a batch or a configuration: dicts that are no checkpoint
    held = _held(event)
    used = f".{name}()" if name else "a call"
    key = next((key for key in held.keys if key in _INSIDE), "") if held else ""
    if not ordered and not name and not (held and (key or held.shapes)):
        return
    variable = held.name if held else "state"
    weights = f'{variable}["{key}"]' if key else variable
    what = f"{used} was asked of a dictionary{f' ({variable})' if held else ''}, not of a model"
    why = (
        "the file holds a state dict, names and tensors without a model"
        if not key
        else (f"the file holds a training checkpoint, a dictionary whose weights lie under {key!r}")
    )
    fix = [f"model = Net(...); model.load_state_dict({weights}); model.eval()   # Net: the class that was trained"]
    if not ordered and not key:
        fix.append(
            'model.load_state_dict(checkpoint["model_state_dict"])   # if it is a training checkpoint: the key it has'
        )
    fix.append(f"rekindle inspect {file}   # what the file holds")
    yield Cause(CODE, NAME, what=what, why=why, fix=tuple(fix), likelihood="certain" if ordered or key else "likely")


_ONLY_MODELS = (
    "eval",
    "train",
    "parameters",
    "named_parameters",
    "state_dict",
    "load_state_dict",
    "requires_grad_",
    "modules",
)


def _is_of_a_model(name: str, code: str) -> bool:
    found = re.search(rf"(\w+)(?:\[[^\]]*\])?\.{name}\(", code)
    return found is not None and (
        name in _ONLY_MODELS or bool(re.match(r"model|net|ckpt|checkpoint|state|encoder|backbone", found[1]))
    )


def _held(event: Event) -> MappingFact | None:
    """Return the dict that the user's line names, as far as it is alive."""
    frame = event.live.user_frame if event.live else None
    words = set(re.findall(r"\w+", frame.frame.code)) if frame else set()
    return next((fact for fact in frame.mappings if fact.name in words), None) if frame else None


def _no_state_dict(event: Event, given: str) -> Cause:
    path = given in {"str", "PosixPath", "Path", "WindowsPath"}
    return Cause(
        CODE,
        NAME,
        what=f"load_state_dict was given {'a path' if path else f'an object of the class {given}'}, not a state dict",
        why="it takes a dictionary of names and tensors, as model.state_dict() gives it"
        + ("; reading the file is torch.load's part" if path else ""),
        fix=("model.load_state_dict(torch.load(path))",)
        if path
        else (
            f"model.load_state_dict(saved.state_dict())   # saved: the {given} that was loaded",
            f"rekindle inspect {checkpoint_of(event)}   # what the file holds",
        ),
        likelihood="certain",
    )


_INSIDE = ("model_state_dict", "state_dict", "model", "net", "ema", "weights", "model_state")

EXAMPLE = """
import torch
from torch import nn

torch.save(nn.Linear(2, 2).state_dict(), "net.pt")
model = torch.load("net.pt")
model.eval()
"""
MENDED = """
import torch
from torch import nn

torch.save(nn.Linear(2, 2).state_dict(), "net.pt")
model = nn.Linear(2, 2)
model.load_state_dict(torch.load("net.pt"))
model.eval()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
