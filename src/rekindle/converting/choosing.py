"""Which part of the object goes over, and as what: the tree is changed, and no tensor's bytes are read for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from rekindle.converting.job import Job
from rekindle.converting.notes import report_modules, report_wrapper
from rekindle.converting.result import Lost
from rekindle.errors import CannotWrite
from rekindle.finding import Where
from rekindle.listing import kind_of, table_of
from rekindle.reshape import flattened, without_modules
from rekindle.selection import take
from rekindle.tensors import DTYPES, TensorEntry, element_count
from rekindle.tree import Map, Module, Tensor, Value, distinct_nodes
from rekindle.writers.shards import shard_name, split
from rekindle.writers.sharing import slim, untie

__all__ = ["change", "select", "shards_of", "values_beside"]

# Objects turned into data that are told one by one.
_MAX_CHANGES = 16


def select(job: Job, part: str | None, *, everything: bool) -> None:
    """Choose the part of the object that goes over."""
    if part is not None:
        job.tree = take(job.tree, part, job.source)
    elif job.opened.format in {"run", "snapshot"} and not everything:
        _take_modules(job)
    elif job.opened.format not in {"run", "snapshot"}:
        _take_outside(job, everything=everything)
    if part is None and job.container == "safetensors" and not job.wishes.reshapes:
        report_wrapper(job)
    job.list_tensors()


def _take_outside(job: Job, *, everything: bool) -> None:
    """Take, or list as lost, the tensors that the reader found beside the object: attributes and constants."""
    inside = table_of(job.tree, job.limits)[0]
    places = {(id(entry.storage), entry.offset, entry.shape) for entry in inside}
    outside = [
        entry
        for entry in job.opened.table
        if entry.key not in inside and (id(entry.storage), entry.offset, entry.shape) not in places
    ]
    if not outside:
        return
    if everything:
        tree = without_modules(job.tree)
        pairs = list(tree.pairs) if isinstance(tree, Map) else [("object", tree)]
        job.tree = Map([*pairs, *((entry.key, _tensor_of(entry)) for entry in outside)])
        return
    job.lost.extend(
        Lost(entry.key, "no part of the state dict but an attribute or constant of the program; --all takes it", True)
        for entry in outside
    )


def _take_modules(job: Job) -> None:
    tracked = job.opened.facts.get("tracked")
    if not isinstance(tracked, Mapping) or not isinstance(job.tree, Map):
        return
    names = [name for name, about in tracked.items() if isinstance(about, Mapping) and about.get("kind") == "module"]
    modules = [(key, child) for key, child in job.tree.pairs if key in names]
    if not modules:
        return
    rest = [str(key) for key, _ in job.tree.pairs if key not in names]
    job.tree = modules[0][1] if len(modules) == 1 else Map(modules)
    if rest:
        job.note(
            "weights-only",
            f"the weights of {', '.join(names)} are written; left out: {', '.join(rest)}",
            why="a run holds what it needs to go on; to use the model, its weights are enough",
            do=f"rekindle convert {job.source} {job.target} "
            + ("--all" if len(modules) == 1 else f"--take {names[0]}     (that one alone; --all takes everything)"),
        )


def change(job: Job) -> None:
    """Do what was wished for, in the one order: plain data, choice, names, types, sharing."""
    wishes = job.wishes
    if wishes.data_only:
        plain = wishes.plain(job.tree)
        job.tree = plain.tree
        for path, what in plain.changed[:_MAX_CHANGES]:
            job.note("object-as-data", f"{path or 'the whole'}: {what}", where=Where(key=path or None))
        if len(plain.changed) > _MAX_CHANGES:
            job.note("object-as-data", f"{len(plain.changed) - _MAX_CHANGES:,} more objects are written as data")
    if wishes.reshapes:
        _reshape(job)
    if wishes.dtype:
        job.list_tensors()
        job.casting = wishes.cast(job.tree, job.checked_bytes)
    if wishes.untie or wishes.slim:
        job.list_tensors()
        # What is read in parts from now on is checked as a whole first.
        for storage in {id(entry.storage): entry.storage for entry in job.table}.values():
            job.check_storage(storage)
        if wishes.untie:
            untie(job.tree)
        else:
            slim(job.tree)
    job.list_tensors()


def _reshape(job: Job) -> None:
    wishes = job.wishes
    flat = job.container == "safetensors"
    result = wishes.reshaped(job.tree, flat=flat)
    kept = {id(node) for node in distinct_nodes(result.tree) if isinstance(node, Tensor)}
    report_modules(job, hidden=True, kept=kept)
    if wishes.values and flat:
        job.values_tree = wishes.chosen(job.tree)
    job.tree = result.tree
    if result.left_out:
        keys = ", ".join(result.left_out[:4])
        job.note(
            "left-out-as-asked",
            f"{len(result.left_out):,} keys are left out as asked: {keys}{' ...' if len(result.left_out) > 4 else ''}",
        )
    if result.renamed:
        old, new = next(iter(result.renamed.items()))
        job.note("renamed-as-asked", f"{len(result.renamed):,} keys are renamed: {old} is {new}, and so on")
    unused = sorted(wishes.choice.unused | wishes.rules.unused)
    if unused:
        job.note(
            "pattern-without-match",
            f"no key fits {', '.join(repr(pattern) for pattern in unused)}",
            why="a pattern is compared with whole keys, and a prefix with whole parts",
            do=f"rekindle inspect {job.source}",
        )


def values_beside(job: Job) -> tuple[str, bytes] | None:
    """Return (path, JSON) of the plain values, where they were asked for."""
    if not job.wishes.values:
        return None
    from rekindle.plain_data import json_of  # noqa: PLC0415 - only where asked for

    found = json_of(job.tree if job.values_tree is None else job.values_tree)
    if not found.count and not found.dropped:
        job.note("values-beside", "there are no plain values to write beside")
        return None
    path = f"{job.target}.values.json"
    text = json.dumps(found.value, indent=1, allow_nan=False)
    job.lost.extend(Lost(key, f"left out of the values: {why}") for key, why in found.dropped)
    job.note("values-beside", f"{found.count:,} plain values are written beside, to {path}")
    return path, f"{text}\n".encode()


def shards_of(job: Job) -> list[Job]:
    """Return one job per file: this one, or its parts."""
    if not job.wishes.shard_bytes:
        return [job]
    tree = job.tree
    if job.container == "safetensors":
        tree = flattened(without_modules(tree))
    elif isinstance(tree, Module):
        report_modules(job)
        tree = without_modules(tree)
    flat = isinstance(tree, Map) and (job.container == "safetensors" or kind_of(tree, job.table) == "state_dict")
    if not isinstance(tree, Map) or not flat:
        raise CannotWrite(
            f"{job.source}: only a state dict can be cut into files",
            why="the files hold keys and tensors, and nothing around them",
            do="take the weights out of the checkpoint: --take KEY; or write .safetensors",
        )
    groups = split(_together(tree, copies=job.container == "safetensors"), job.wishes.shard_bytes)
    if len(groups) < 2:
        return [job]
    report_modules(job)
    made = []
    for number, pairs in enumerate(groups, 1):
        part = Map([pair for group in pairs for pair in group], tree.type)
        made.append(job.for_shard(shard_name(job.target, number, len(groups)), part))
    return made


def _tensor_of(entry: TensorEntry) -> Tensor:
    tensor = Tensor(entry.storage, entry.dtype, entry.offset, entry.shape, entry.stride, entry.requires_grad)
    tensor.parameter, tensor.conj, tensor.neg = entry.parameter, entry.conj, entry.neg
    return tensor


def _together(tree: Map, *, copies: bool) -> Iterator[tuple[list[tuple[Value, Value]], int]]:
    """Yield the pairs of a state dict that must be in one file, with their bytes, in the order of the keys.

    Args:
        tree: of one level.
        copies: whether tensors that share their bytes are written one by one.
    """
    groups: dict[object, list[tuple[Value, Value]]] = {}
    sizes: dict[object, dict[object, int]] = {}
    for at, pair in enumerate(tree.pairs):
        tensors = [node for node in distinct_nodes(pair[1]) if isinstance(node, Tensor)]
        group: object = at if copies or not tensors else id(tensors[0].storage)
        groups.setdefault(group, []).append(pair)
        size = sizes.setdefault(group, {})
        for number, tensor in enumerate(tensors):
            if copies:
                size[at, number] = element_count(tensor.shape) * DTYPES[tensor.dtype].itemsize
            else:
                size[id(tensor.storage)] = tensor.storage.size_bytes
    for group, pairs in groups.items():
        yield pairs, sum(sizes[group].values())
