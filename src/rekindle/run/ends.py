"""How a run ended, as values that can be compared: the tensors and plain values of its last snapshot, and its log.

Equal means equal bits: tensors are compared by the SHA-256 of their elements with dtype and shape, floats by the text
that gives back the same double. Left out is what tells of the machine and the clock and not of the training: see
`_ABOUT_THE_MACHINE`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rekindle.errors import RunError, SnapshotDamaged
from rekindle.limits import DEFAULT_LIMITS
from rekindle.source import Source
from rekindle.store.find import newest_good
from rekindle.store.layout import METRICS_NAME
from rekindle.store.manifest import read_manifest

__all__ = ["End", "Other", "compare_ends", "read_end"]

# Parts of state.json that tell of the machine, and of the sizes of the logs: metrics.jsonl is compared line by line,
# and TensorBoard's files hold the time of day.
_ABOUT_THE_MACHINE = frozenset({"extra.environment", "extra.log"})


@dataclass(frozen=True, slots=True)
class End:
    """What the newest snapshot that holds says, and the log.

    Attributes:
        step: its step.
        tensors: ``file: key`` -> dtype, shape and SHA-256 as one text.
        values: path in the plain state -> JSON text; other files by their SHA-256.
        log: lines of ``metrics.jsonl``, without their ends.
    """

    step: int
    tensors: Mapping[str, str]
    values: Mapping[str, str]
    log: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """One thing that ended differently.

    Attributes:
        kind: ``tensor``, ``value``, ``log`` or ``step``.
        name: the tensor, the value's path, ``line 12``.
        straight: in the undisturbed run, as text; ``-`` where it is missing.
        killed: in the killed run.
    """

    kind: str
    name: str
    straight: str
    killed: str


def read_end(run_path: str) -> End | None:
    """Return how the run in this folder ended; None where it has no snapshot.

    Raises:
        RunError: there are snapshots and none of them holds.
        OSError: the folder cannot be read.
    """
    found = newest_good(run_path)
    if found.nothing_holds:
        name, reason = found.passed_over[0]
        raise RunError(f"{run_path}: no snapshot of the run holds", why=f"{name}: {reason}")
    if found.snapshot is None or found.step is None:
        return None
    tensors: dict[str, str] = {}
    values: dict[str, str] = {}
    for name, facts in sorted(read_manifest(found.snapshot).files.items()):
        path = os.path.join(found.snapshot, name)
        if name.endswith(".safetensors"):
            tensors.update((f"{name}: {key}", text) for key, text in _tensors(path))
        elif name.endswith(".json"):
            values.update((f"{name}: {key}", text) for key, text in _values(path))
        else:
            values[name] = f"sha256 {' '.join(facts.blocks)}"
    return End(found.step, tensors, values, _log_lines(os.path.join(run_path, METRICS_NAME)))


def compare_ends(straight: End, killed: End) -> tuple[Other, ...]:
    """Return everything that is not equal: the step, tensors, values, then lines of the log, each in order."""
    found = []
    if straight.step != killed.step:
        found.append(Other("step", "the last snapshot's step", str(straight.step), str(killed.step)))
    for kind, one, other in (("tensor", straight.tensors, killed.tensors), ("value", straight.values, killed.values)):
        pairs = ((name, one.get(name, "-"), other.get(name, "-")) for name in dict.fromkeys([*one, *other]))
        found.extend(Other(kind, name, mine, theirs) for name, mine, theirs in pairs if mine != theirs)
    for at in range(max(len(straight.log), len(killed.log))):
        one_line = straight.log[at] if at < len(straight.log) else "-"
        other_line = killed.log[at] if at < len(killed.log) else "-"
        if one_line != other_line:
            found.append(Other("log", f"line {at + 1}", one_line, other_line))
    return tuple(found)


def _tensors(path: str) -> Iterator[tuple[str, str]]:
    from rekindle.formats import safetensors  # noqa: PLC0415 - a reader, loaded when there is something to read

    opened = safetensors.read(Source(path), DEFAULT_LIMITS)
    with opened:
        for entry in opened.table:
            digest = hashlib.sha256()
            for piece in entry.storage.data.chunks() if entry.storage.data is not None else ():
                digest.update(piece)
            yield entry.key, f"{entry.dtype} {list(entry.shape)} {digest.hexdigest()}"


def _values(path: str) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as file:
        try:
            whole = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise SnapshotDamaged(f"{path}: is not JSON", why=str(error)[:100]) from None
    waiting: list[tuple[str, object]] = [("", whole)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict) and value:
            parts = [(f"{name}.{key}" if name else key, child) for key, child in value.items()]
            waiting.extend(part for part in reversed(parts) if part[0] not in _ABOUT_THE_MACHINE)
        elif isinstance(value, list) and value:
            waiting.extend((f"{name}[{at}]", child) for at, child in reversed(list(enumerate(value))))
        else:
            yield name, json.dumps(value)


def _log_lines(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return tuple(file.read().splitlines())
    except FileNotFoundError:
        return ()
