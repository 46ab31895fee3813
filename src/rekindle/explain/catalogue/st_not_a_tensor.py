"""safetensors was given something that is no tensor, or metadata that is no text."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-42", "st-not-a-tensor", "0.2"
TITLE = "Key `epoch` is invalid, expected torch.Tensor but received <class 'int'>"
RAISES = ("ValueError", "TypeError")
NEEDLES = ("expected torch.Tensor but received", "Expected a dict of [str, torch.Tensor]", "argument 'metadata': ")
PATTERNS = (
    r"Key `(?P<key>[^`\n]{1,300})` is invalid, expected torch\.Tensor but received <class '(?P<kind>[\w.]+)'>",
    r"Expected a dict of \[str, torch\.Tensor\] but received <class '(?P<whole>[\w.]+)'>",
    r"argument 'metadata': '(?P<meta>\w+)' object (?:cannot be converted to|is not an instance of) '(?:str|PyString)'",
)
OLD: tuple[str, ...] = ("TypeError: argument 'metadata': 'int' object cannot be converted to 'PyString'",)
WHY = "A safetensors file holds tensors by name and a few texts as metadata, nothing else: no epoch, no optimizer, no nested dictionaries. That is what makes it safe to open."
CHECK = "`{k: type(v) for k, v in state.items()}`."


def explain(event: Event) -> Iterator[Cause]:
    """A number or a nested dict among the tensors; metadata that is no text; a whole model."""
    facts = event.facts
    if facts.get("meta", ""):
        what, why = (
            f"the metadata holds a value of the class {facts['meta']}",
            "metadata of a safetensors file are texts",
        )
        fix: tuple[str, ...] = ("metadata={name: str(value) for name, value in metadata.items()}",)
    elif facts.get("whole", ""):
        what = f"save_file was given an object of the class {facts['whole']}, not a dict of tensors"
        why = "a safetensors file holds tensors by name"
        fix = ("save_file(model.state_dict(), path)",)
    else:
        what = f"the entry {facts['key']!r} is of the class {facts['kind']}, and a safetensors file holds tensors only"
        why = "a whole training checkpoint (epoch, optimizer, settings) does not fit into one flat list of tensors"
        fix = (
            'save_file(model.state_dict(), path, metadata={"epoch": str(epoch)})   # weights; small facts as texts',
            'torch.save(checkpoint, "last.pt")   # the whole training state; or rekindle.save(path, ...)',
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch
from safetensors.torch import save_file

save_file({"weight": torch.ones(3, 4), "epoch": 3}, "model.safetensors")
"""
MENDED = """
import torch
from safetensors.torch import save_file

save_file({"weight": torch.ones(3, 4)}, "model.safetensors", metadata={"epoch": "3"})
"""
REQUIRES: tuple[str, ...] = ("safetensors",)
MESSAGE = ""
