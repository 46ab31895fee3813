"""What `load_state_dict` refused, read from its message, and which of its entries that belongs to.

`Module.load_state_dict` reports all it refuses in one message: missing keys, unexpected keys, other sizes. Several
mistakes look alike there, so that one place decides (`fault_of`) and each entry speaks of its own fault only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rekindle.explain.event import Event
from rekindle.keys import WRAPPER_PARTS, canonical_key

__all__ = [
    "NEEDLES",
    "PATTERN",
    "Fault",
    "Refused",
    "Size",
    "common_prefix",
    "fault_of",
    "refused_of",
    "weights_entry",
    "wrapper_of",
]

Fault = Literal["wrapper", "compiled", "whole", "prefix", "size", "other"]

PATTERN = r"Error\(s\) in loading state_dict for (?P<model>[\w.]+):"
NEEDLES = ("Error(s) in loading state_dict for",)

_KEYS = re.compile(r'"([^"\n]+)"')
_SIZE = re.compile(
    r"size mismatch for (?P<key>\S+): copying a param with shape (?:torch\.Size\()?\[?(?P<have>[\d, ]*)\]?\)?"
    r" from checkpoint, the shape in current model is (?:torch\.Size\()?\[?(?P<want>[\d, ]*)\]?\)?"
)
_OLD_SIZE = re.compile(
    r"[Ww]hile copying the parameter named \"?(?P<key>[^\s\",]+)\"?, whose dimensions in the model are torch\.Size\(\[(?P<want>[\d, ]*)\]\)"
    r" and whose dimensions in the checkpoint are torch\.Size\(\[(?P<have>[\d, ]*)\]\)"
)
# What a training checkpoint has beside the weights, in the spellings of common trainers.
_WEIGHTS = ("model_state_dict", "state_dict", "model_state", "model", "net", "network", "module", "ema", "weights")
_BESIDE = (
    "optim",
    "sched",
    "epoch",
    "step",
    "loss",
    "scaler",
    "args",
    "config",
    "acc",
    "best",
    "hyper",
    "version",
    "rng",
)


@dataclass(frozen=True, slots=True)
class Size:
    """One key with another shape: in the file, and in the model."""

    key: str
    file: tuple[int, ...]
    model: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """What the message lists.

    Attributes:
        model: class of the module that was to be filled; empty in old messages.
        missing: keys that the model has and the file lacks.
        unexpected: keys that the file has and the model lacks.
        sizes: keys of both, with other shapes.
    """

    model: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    sizes: tuple[Size, ...]


def refused_of(event: Event) -> Refused:
    """Return what a message of `load_state_dict` lists."""
    found: dict[str, list[str]] = {"Missing": [], "Unexpected": []}
    sizes: list[Size] = []
    for line in event.message.splitlines():
        word = line.strip().partition(" ")[0]
        if word in found and "key(s) in state_dict:" in line:
            found[word] += _KEYS.findall(line)
        elif word in {"size", "While", "while"} and (match := _SIZE.search(line) or _OLD_SIZE.search(line)):
            sizes.append(Size(match["key"], _shape(match["have"]), _shape(match["want"])))
    model = event.facts.get("model", "")
    return Refused(model, tuple(found["Missing"]), tuple(found["Unexpected"]), tuple(sizes))


def fault_of(refused: Refused) -> Fault:
    """Return which mistake the lists show; each entry speaks of its own only."""
    if wrapper_of(refused):
        return (
            "compiled"
            if any("_orig_mod" in key.split(".") for key in (*refused.missing, *refused.unexpected))
            else "wrapper"
        )
    if refused.missing and weights_entry(refused.unexpected):
        return "whole"
    if common_prefix(refused.unexpected, refused.missing) or common_prefix(refused.missing, refused.unexpected):
        return "prefix"
    return "size" if refused.sizes else "other"


def wrapper_of(refused: Refused) -> tuple[str, ...]:
    """Return the parts that wrappers put into the keys of one side only, or nothing.

    The keys without them have to be keys of the other side; a message may have been cut, so that one is enough.
    """
    missing, unexpected = set(refused.missing), set(refused.unexpected)
    for here, there in ((unexpected, missing), (missing, unexpected)):
        wrapped = [key for key in here if canonical_key(key) != key and canonical_key(key) in there]
        if wrapped and len(wrapped) * 2 >= len(here):
            parts = {part for key in wrapped for part in key.split(".")[:-1] if part in WRAPPER_PARTS}
            return tuple(part for part in WRAPPER_PARTS if part in parts)
    return ()


def weights_entry(names: Iterable[str]) -> str:
    """Return the entry of a training checkpoint that should hold the weights, or an empty text."""
    plain = [name for name in names if "." not in name]
    beside = [name for name in plain if any(word in name.lower() for word in _BESIDE)]
    found = next((name for name in _WEIGHTS if name in plain), "")
    return found if found and (beside or len(plain) == 1) else ""


def common_prefix(longer: Iterable[str], shorter: Iterable[str]) -> str:
    """Return the beginning (``model.``) behind which the one side's keys are the other side's, or an empty text."""
    plain = set(shorter)
    fitting = Counter(key.partition(".")[0] for key in longer if key.partition(".")[2] in plain)
    for head, count in fitting.most_common(1):
        if count * 2 >= len(plain):
            return f"{head}."
    return ""


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.replace(" ", "").split(",") if size)
