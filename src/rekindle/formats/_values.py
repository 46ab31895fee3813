"""Small questions to a tree that a file made: is this a number, a shape, a dtype, a dict of attributes?

A file chooses every value, so each answer is the thing asked for or None, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping

from rekindle.limits import Limits
from rekindle.tensors import DTYPES
from rekindle.tree import Global, Map, Record, Value

__all__ = [
    "attributes_of",
    "count_of",
    "dtype_of",
    "natural_key",
    "number_of",
    "shape_of",
    "text_pairs",
]

_MAX_COUNT = 2**63 - 1


def count_of(value: object) -> int | None:
    """Return a whole number from 0 to 2^63 - 1; None for anything else."""
    if type(value) is int and 0 <= value <= _MAX_COUNT:
        return value
    return None


def number_of(value: Value) -> int | None:
    """Return a count, also where it is the only argument of a call (an enum); None for anything else."""
    if isinstance(value, Record) and isinstance(value.args, (tuple, list)) and len(value.args) == 1:
        return count_of(value.args[0])
    return count_of(value)


def shape_of(value: object, limits: Limits) -> tuple[int, ...] | None:
    """Return sizes, given as a list, a tuple or a call of ``torch.Size``; None for anything else."""
    if isinstance(value, Record):
        args = value.args
        value = args[0] if isinstance(args, (tuple, list)) and len(args) == 1 else None
    if not isinstance(value, (tuple, list)) or len(value) > limits.tensor_dims:
        return None
    sizes: list[int] = []
    total = 1
    for part in value:
        size = count_of(part)
        if size is None:
            return None
        sizes.append(size)
        total *= max(size, 1)
    return tuple(sizes) if total <= _MAX_COUNT else None


def dtype_of(value: Value) -> str | None:
    """Return the name of a torch dtype that a pickle refers to; None for anything else."""
    if isinstance(value, Global) and value.module == "torch" and value.name in DTYPES:
        return value.name
    return None


def attributes_of(value: Value) -> Mapping[str, Value]:
    """Return what a call's BUILD set on its result, by name; empty where it set none."""
    state = value.state if isinstance(value, Record) else value
    if isinstance(state, (tuple, list)) and len(state) == 2 and isinstance(state[1], Map):
        state = state[1]  # (dict, slots): how a class with slots is pickled
    return dict(text_pairs(state)) if isinstance(state, Map) else {}


def text_pairs(value: Value) -> list[tuple[str, Value]]:
    """Return the pairs of a mapping whose keys are text."""
    if not isinstance(value, Map):
        return []
    return [(key, child) for key, child in value.pairs if isinstance(key, str)]


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts ``rank_10`` behind ``rank_9``; names may hold digits of any length."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for letter in [*name, ""]:
        if letter.isascii() and letter.isdigit():
            digits += letter
            continue
        if digits:
            stripped = digits.lstrip("0")
            parts.append((0, len(stripped), stripped))
            digits = ""
        if letter:
            parts.append((1, 0, letter))
    return tuple(parts)
