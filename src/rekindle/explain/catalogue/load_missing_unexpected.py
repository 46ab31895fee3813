"""The model built now has other parameters than the one that was saved."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of
from rekindle.explain.catalogue._state_dicts import Refused, fault_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event
from rekindle.keys import near_names

CODE, NAME, SINCE = "RK-LOAD-09", "load-missing-unexpected", "0.2"
TITLE = "Error(s) in loading state_dict: Missing key(s) in state_dict, Unexpected key(s) in state_dict"
RAISES = ("RuntimeError", "KeyError")
NEEDLES = ("key(s) in state_dict:", "missing keys in state_dict:", "unexpected key ")
PATTERNS = (
    r"Error\(s\) in loading state_dict for (?P<model>[\w.]+):(?=[\s\S]*?(?:Missing|Unexpected) key\(s\) in state_dict:)",
    r"missing keys in state_dict: \"(?P<old_missing>[^\"]+)\"",
    r"unexpected key \"(?P<old_unexpected>[^\"]+)\" in state_dict",
)
OLD = (
    "KeyError: 'missing keys in state_dict: \"{\\'classifier.weight\\', \\'classifier.bias\\'}\"'",
    "KeyError: 'unexpected key \"head.weight\" in state_dict'",
)
WHY = (
    "`load_state_dict` pairs parameters by name. A layer that was renamed, added or removed since the file was saved, or"
    " a file of another architecture, leaves names without a partner on both sides."
)
CHECK = (
    "`rekindle inspect FILE` lists what the file holds; `print(*model.state_dict(), sep='\\n')` what the model wants."
)

_NAMES = re.compile(r'"([^"]+)"')
_QUOTED = re.compile(r"'([^'\\]+)\\?'")


def explain(event: Event) -> Iterator[Cause]:
    """Pairs the names that look alike; leaves wrapper prefixes to their own entries."""
    missing, unexpected = missing_and_unexpected(event)
    model = event.facts.get("model", "")
    if fault_of(Refused(model, tuple(missing), tuple(unexpected), ())) in {"wrapper", "compiled", "whole", "prefix"}:
        return  # entries of their own
    model = model or "the model"
    renamed = [(name, near[0]) for name in missing[:50] if (near := near_names(name, unexpected, count=1))]
    fix = []
    if renamed:
        new, old = renamed[0]
        fix.append(f'state["{new}"] = state.pop("{old}")   # for each renamed key, then load_state_dict(state)')
    if missing or unexpected:
        fix.append(
            "print(model.load_state_dict(state, strict=False))   # if the leftover is meant; it is said what was left out"
        )
    fix.append(f"rekindle inspect {checkpoint_of(event)}   # the names and shapes that the file has")
    counts = [
        f"{_counted(len(names))} {word}" for names, word in ((missing, "missing"), (unexpected, "too many")) if names
    ]
    examples = [f"{word} {names[0]}" for names, word in ((missing, "missing"), (unexpected, "unexpected")) if names]
    yield Cause(
        CODE,
        NAME,
        what=f"the file does not fit {model}: {' and '.join(counts)} ({', '.join(examples)})",
        why="a layer was renamed, added or removed since the file was saved, or it is the file of another architecture",
        fix=tuple(fix),
    )


def missing_and_unexpected(event: Event) -> tuple[list[str], list[str]]:
    """Return the keys that the message lists as missing and as unexpected."""
    found: dict[str, list[str]] = {"Missing": [], "Unexpected": []}
    for line in event.message.splitlines():
        word = line.strip().partition(" ")[0]
        if word in found and "key(s) in state_dict:" in line:
            found[word] += _NAMES.findall(line)
    found["Missing"] += _QUOTED.findall(event.facts.get("old_missing", ""))
    if event.facts.get("old_unexpected"):
        found["Unexpected"].append(event.facts["old_unexpected"])
    return found["Missing"], found["Unexpected"]


def _counted(count: int) -> str:
    return f"{count} key" if count == 1 else f"{count} keys"


EXAMPLE = """
from torch import nn

class Old(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)

class New(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.classifier = nn.Linear(2, 2)

New().load_state_dict(Old().state_dict())
"""
MENDED = """
from torch import nn

class Old(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)

class New(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.classifier = nn.Linear(2, 2)

state = Old().state_dict()
for part in ("weight", "bias"):
    state[f"classifier.{part}"] = state.pop(f"head.{part}")
New().load_state_dict(state)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
