"""Tensors that were one tensor in the model and are two in the file (tied weights)."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.finding import Finding, Severity, Where
from rekindle.render import human_bytes
from rekindle.tensors import TensorEntry

CODE, NAME, SINCE = "RK-FILE-71", "untied-copies", "0.1"
WHY = "{cause}; after loading, training changes one and not the other, unless the model ties them again"
DO = "tie them after loading: model.{second} = model.{first}"

_INPUTS = (
    *("embed.weight", "embedding.weight", "embed_tokens.weight", "wte.weight", "word_embeddings.weight"),
    "tok_embeddings.weight",
)
_OUTPUTS = ("lm_head.weight", "output.weight", "decoder.weight", "embed_out.weight")
_MIN_BYTES = 1024


def check(case: Case) -> Iterator[Finding]:
    """Compare contents where the tensors were read, else the names under which such pairs are known."""
    entries = {key: entry for key, entry in case.entries.items() if _counts(entry)}
    pairs = _equal(case, entries) if case.values else _named(entries)
    if not pairs:
        return
    first, second = pairs[0]
    entry = entries[first]
    shared = case.opened.format not in {"safetensors", "hub-shards"}
    cause = "they were copied before saving" if shared else "safetensors has no sharing, so each is written by itself"
    if case.values:
        what = f"{second} is a copy of {first}, {human_bytes(entry.size_bytes)}, bit for bit"
    else:
        what = (
            f"{first} and {second} have the same shape, {human_bytes(entry.size_bytes)} each; such pairs are often tied"
        )
    if len(pairs) > 1:
        what += f"; {len(pairs) - 1:,} more pairs"
    yield Finding(
        CODE,
        NAME,
        Severity.NOTE,
        what,
        why=WHY.format(cause=cause),
        do=DO.format(first=first, second=second) if case.values else f"rekindle doctor {case.path} --values",
        where=Where(key=second),
    )


def _counts(entry: TensorEntry) -> bool:
    return len(entry.shape) >= 2 and entry.size_bytes >= _MIN_BYTES


def _equal(case: Case, entries: dict[str, TensorEntry]) -> list[tuple[str, str]]:
    first: dict[tuple[object, ...], str] = {}
    pairs = []
    for key, entry in entries.items():
        facts = case.facts.get(entry.key)
        if facts is None or facts.all_zero:
            continue
        earlier = first.setdefault((entry.dtype, entry.shape, facts.digest), key)
        if entries[earlier].storage is not entry.storage:
            pairs.append((earlier, key))
    return pairs


def _named(entries: dict[str, TensorEntry]) -> list[tuple[str, str]]:
    return [
        (first, second)
        for first in entries
        if first.endswith(_INPUTS)
        for second in entries
        if second.endswith(_OUTPUTS)
        and entries[first].shape == entries[second].shape
        and entries[first].dtype == entries[second].dtype
        and entries[first].storage is not entries[second].storage
    ]
