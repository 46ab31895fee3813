"""A file under examination: what was opened, and what several checks ask of it, found out once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rekindle.checks._programs import Program, programs_of
from rekindle.checks._values import ValueFacts, facts_of_values
from rekindle.checks._weights_only import Verdict, judge_programs
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.tensors import TensorEntry
from rekindle.weights import Weights, find_weights

__all__ = ["Case", "counted", "listed"]

_SHOWN = 3


@dataclass(slots=False, eq=False)
class Case:
    """One file and the questions about it.

    Attributes:
        opened: the file, open.
        values: whether the tensors may be read.
        torch: the version of torch that is asked about, such as (1, 4); None where none is.
        devices: kind -> how many of it this machine has, ``cpu`` among them.
        limits: what reading may cost.
        progress: called with (bytes read, bytes in all) while tensors are read.
    """

    opened: Opened
    values: bool = False
    torch: tuple[int, ...] | None = None
    devices: Mapping[str, int] = field(default_factory=lambda: {"cpu": 1})
    limits: Limits = DEFAULT_LIMITS
    progress: Callable[[int, int], None] | None = None

    @cached_property
    def path(self) -> str:
        """The path, quoted for a shell."""
        return shlex.quote(self.opened.path)

    @cached_property
    def stem(self) -> str:
        """The name of the file without folder and suffix, for the names of new files."""
        name = os.path.basename(self.opened.path.rstrip("/")) or "model"
        return os.path.splitext(name)[0] or name

    @cached_property
    def fix(self) -> str:
        """The command that mends what can be mended in one go."""
        suffix = ".safetensors" if self.opened.format in {"safetensors", "hub-shards"} else ".pth"
        return f"rekindle doctor {self.path} --fix {shlex.quote(self.stem + '.fixed' + suffix)}"

    @cached_property
    def weights(self) -> Weights | None:
        """Where the model's weights are in the object; None where there are none, or several."""
        return find_weights(self.opened.tree)

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the weights as a model's `load_state_dict` would be given them."""
        return list(self.weights.state) if self.weights is not None else []

    @cached_property
    def entries(self) -> Mapping[str, TensorEntry]:
        """The table's entries of the weights, by the key that a model would know them by."""
        if self.weights is None:
            return {}
        prefix = "".join(f"{part}." for part in self.weights.path)
        found = {}
        for entry in self.opened.table:
            if entry.key.startswith(prefix) and entry.key[len(prefix) :] in self.weights.state:
                found[entry.key[len(prefix) :]] = entry
        return found

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """The pickle programs that `torch.load` would run, in its order."""
        return programs_of(self.opened, self.limits)

    @cached_property
    def verdict(self) -> Verdict | None:
        """What ``torch.load(weights_only=True)`` makes of the programs; None where there are none to judge."""
        return judge_programs(self.programs, self.limits) if self.programs else None

    @cached_property
    def facts(self) -> Mapping[str, ValueFacts]:
        """What the elements of the tensors are like, by the table's key; empty unless `values`."""
        return facts_of_values(self.opened, self.progress) if self.values else {}


def counted(count: int, noun: str, verb: str = "", verbs: str = "") -> str:
    """Return a number with its noun, and the verb that agrees: ``1 key carries``, ``2 keys carry``."""
    said = f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
    return f"{said} {verb if count == 1 else verbs}" if verb else said


def listed(names: list[str], shown: int = _SHOWN) -> str:
    """Return names as a sentence has them: three, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")
