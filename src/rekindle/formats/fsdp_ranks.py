"""Folders with a file per rank, as FSDP's ``torch.save(model.state_dict())`` on every rank leaves: the whole again.

``model_world_size_4_rank_0.pt`` to ``..._rank_3.pt`` (and ``optim_...``, ``extra_state_...``; or ``model.rank_0.pth``,
where the content says that it is a rank's) are plain `torch.save` files whose tensors are DTensors, of older torch
ShardedTensors. Each file says which part of every tensor it has (`_sharded`), so the parts are put together while they
are read, as boxes. A tensor that is whole on every rank (a buffer, a replicated parameter) comes from the lowest one.

What cannot be whole is listed without bytes: parts of ranks that are missing, sums that were never added up. The flat
parameters of FSDP 1 (`StateDictType.LOCAL_STATE_DICT`) are put together flat: the names and shapes inside them are in
the model's code, not in the files. Files of one kind that hold no part of anything (random states, schedulers) are
listed rank by rank.

Facts: PyTorch 2.13 `torch/distributed/fsdp/`, and `_sharded`; names of files: verl 0.5 `fsdp_checkpoint_manager.py`,
DINOv2 `fsdp/__init__.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rekindle.finding import Finding, Severity, Where
from rekindle.formats._assembled import Assembled, Box, Concatenated, PartReader, check_tiling
from rekindle.formats._folders import Folder, cut_list, opened_folder
from rekindle.formats._sharded import Meshes, Sharded, is_sharded, local_tensor, read_sharded, words_of
from rekindle.formats._values import natural_key
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import Bytes
from rekindle.tensors import DTYPES, Storage, TensorTable, contiguous_stride, element_count
from rekindle.tree import Map, Tensor, Value, children
from rekindle.unpickling.finish import put_in_place

__all__ = ["NAME", "of_one_rank", "read_folder", "sniff_folder"]

NAME = "fsdp-ranks"

_WORLD = re.compile(r"^(?:(.{1,200})_)?world_size_(\d{1,6})_rank_(\d{1,6})\.(?:pt|pth|bin|ckpt)$")
_RANK = re.compile(r"^(.{1,200}?)[._-]?rank[._-]?(\d{1,6})\.(?:pt|pth|bin|ckpt)$")
_MAX_FILES = 100_000
_MAX_RANKS = 100_000
# The first globals of a pickle come early; a name that says so little is believed only with them.
_LOOK_BYTES = 1024 * 1024
_MAX_NAMED = 16


# --- one file --------------------------------------------------------------------------------------------------------


def of_one_rank(tree: Value, limits: Limits) -> tuple[Value, dict[str, str], list[Finding]]:
    """Return the object of a single rank's file with its own parts as tensors, what each is, and a finding.

    Args:
        tree: as the reader of the file made it; it is changed.
        limits: caps.

    Returns:
        The object; key -> which part of what, in words (``[4:8, :] of [16, 3]``); the finding.
    """
    meshes: Meshes = {}
    places = _places(tree)
    found = {path: sharded for path, node in places if (sharded := read_sharded(node, limits, meshes)) is not None}
    if not found:
        return tree, {}, []
    become = {id(node): local_tensor(found[path]) for path, node in places if path in found}
    said = {".".join(path): _words(sharded) for path, sharded in found.items()}
    first = next((sharded for sharded in found.values() if sharded.rank is not None), next(iter(found.values())))
    who = f"rank {first.rank}" if first.rank is not None else "one rank"
    shown = cut_list([f"{key} is {words}" for key, words in said.items()], 3)
    finding = Finding(
        "RK-FILE-61",
        "one-rank-of-several",
        Severity.NOTE,
        f"the file of {who}" + (f" of {first.world:,}" if first.world else "") + f"; {len(said):,} tensors are its "
        f"parts: {shown}",
        "FSDP or tensor parallelism spread the model over several processes, and each saved what it had",
        "put the files of all ranks into one folder and give its path: the tensors are whole there",
        Where(key=next(iter(said))),
    )
    return put_in_place(tree, become), said, [finding]


def _words(sharded: Sharded) -> str:
    parts = [part for _, parts in sharded.pieces for part in parts]
    if sharded.problem:
        return f"a part of {list(sharded.shape)}: {sharded.problem}"
    if not parts:
        return f"nothing of {list(sharded.shape)}"
    if len(parts) == 1 and parts[0].sizes == sharded.shape:
        return f"all of {list(sharded.shape)}"
    return f"{cut_list([words_of(part, sharded.shape) for part in parts])} of {list(sharded.shape)}"


def _places(tree: Value) -> list[tuple[tuple[str, ...], Value]]:
    """Return (path, node) of every tensor that is spread, each node once, by its first path."""
    found: list[tuple[tuple[str, ...], Value]] = []
    seen: set[int] = set()
    pending: list[tuple[tuple[str, ...], Value]] = [((), tree)]
    while pending:
        path, node = pending.pop()
        if node is None or isinstance(node, (str, int, float, bytes, complex)) or id(node) in seen:
            continue
        seen.add(id(node))
        if is_sharded(node):
            found.append((path, node))
            continue
        if isinstance(node, Tensor):
            continue
        pending.extend(((*path, name), child) for name, child in reversed(children(node)))
    return found


# --- a folder --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Files:
    """The files of one kind (``model``, ``optim``) by rank."""

    world: int
    names: dict[int, str] = field(default_factory=dict)


def sniff_folder(path: str) -> bool:
    """Tell whether a folder has a file per rank, by their names; by one's content where the names say less."""
    names = _names(path)
    if any(_WORLD.match(name) for name in names):
        return True
    return any(_RANK.match(name) and _is_of_a_rank(os.path.join(path, name)) for name in names)


def _is_of_a_rank(path: str) -> bool:
    try:
        if os.path.islink(path) or not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            head = file.read(_LOOK_BYTES)
    except OSError:
        return False
    return head.startswith(b"PK\x03\x04") and any(
        name in head for name in (b"torch.distributed.tensor", b"torch.distributed._tensor", b"ShardedTensor")
    )


def _names(path: str) -> list[str]:
    names: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) >= _MAX_FILES:
                break
    return sorted(names, key=natural_key)


def read_folder(path: str, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read the pickles of all ranks; the elements stay where they are.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
        OSError: the folder may not be read.
    """
    from rekindle.listing import table_of  # noqa: PLC0415

    with Folder(path, limits) as folder:
        names = _names(path)
        kinds = _kinds_of(folder, names)
        facts: dict[str, object] = {
            "world_size": max((files.world for files in kinds.values()), default=0),
            "files": [name for files in kinds.values() for name in files.names.values()],
        }
        trees: list[tuple[Value, Value]] = [
            (kind, _Ranks(folder, files, facts).tree()) for kind, files in kinds.items()
        ]
        tree = trees[0][1] if len(trees) == 1 and isinstance(trees[0][1], Map) else Map(trees)
        others = [name for name in names if name.endswith((".safetensors", ".distcp"))]
        if others:
            folder.add(
                "RK-FILE-51",
                "not-listed",
                Severity.NOTE,
                f"{cut_list(others)} lies beside the files of the ranks and is not listed",
                "the weights in another form, as a rule",
                f"rekindle inspect {os.path.join(folder.path, others[0])}",
                member=others[0],
            )
        table, found = table_of(tree, limits) if tree.pairs else (TensorTable(()), [])
        folder.findings.extend(found)
        return opened_folder(folder, NAME, tree, table, facts, listed=bool(len(table)))


def _kinds_of(folder: Folder, names: Sequence[str]) -> dict[str, _Files]:
    """Return the files by kind; of two saves with different numbers of ranks the one that is whole, or newer."""
    saves: dict[tuple[str, int], _Files] = {}
    for name in names:
        if found := _WORLD.match(name):
            kind, world, rank = found[1] or "model", int(found[2]), int(found[3])
        elif found := _RANK.match(name):
            kind, world, rank = found[1].rstrip("._-") or "model", 0, int(found[2])
        else:
            continue
        if rank < (world or _MAX_RANKS) <= _MAX_RANKS:
            saves.setdefault((kind, world), _Files(world)).names.setdefault(rank, name)
    kinds: dict[str, _Files] = {}
    for (kind, _), files in sorted(saves.items(), key=lambda save: _worth(folder, save[1]), reverse=True):
        if kind not in kinds:
            kinds[kind] = files
            continue
        first = next(iter(files.names.values()))
        folder.add(
            "RK-FILE-41",
            "index-disagrees",
            Severity.WARNING,
            f"{len(files.names):,} files of another save are not listed: {first}",
            f"it was made by {files.world:,} ranks, the one that is listed by {kinds[kind].world:,}",
            "move them into a folder of their own",
            member=first,
        )
    # Weights first, whatever the alphabet says.
    return dict(sorted(kinds.items(), key=lambda item: (not item[0].startswith("model"), natural_key(item[0]))))


def _worth(folder: Folder, files: _Files) -> tuple[bool, float]:
    def changed(name: str) -> float:
        try:
            return os.stat(os.path.join(folder.path, name)).st_mtime
        except OSError:
            return 0.0

    return len(files.names) == (files.world or len(files.names)), max(map(changed, files.names.values()))


class _Ranks:
    """The files of one kind while they are put together.

    Args:
        folder: where they are.
        files: their names.
        facts: what is learnt besides.
    """

    def __init__(self, folder: Folder, files: _Files, facts: dict[str, object]) -> None:
        """Read nothing yet."""
        self.folder = folder
        self.files = files
        self.facts = facts
        self.trees: dict[int, Value] = {}
        self.places: dict[int, list[tuple[tuple[str, ...], Value]]] = {}
        self.sharded: dict[tuple[str, ...], dict[int, Sharded]] = {}

    def tree(self) -> Value:
        """Return the object with its tensors whole; a dict by rank where no tensor is spread."""
        for rank, name in sorted(self.files.names.items()):
            opened = self.folder.open(name)
            if opened is None or not opened.listed:
                continue
            self.trees[rank] = opened.tree
            meshes: Meshes = {}
            self.places[rank] = _places(opened.tree)
            for path, node in self.places[rank]:
                sharded = read_sharded(node, self.folder.limits, meshes)
                if sharded is not None:
                    self.sharded.setdefault(path, {})[rank] = sharded
        if not self.trees:
            return Map([])
        said = max((s.world for ranks in self.sharded.values() for s in ranks.values()), default=0)
        world = self.files.world or max(min(said, _MAX_RANKS), max(self.files.names) + 1)
        self.facts["world_size"] = max(world, int(str(self.facts["world_size"])))
        if not self.sharded:
            self.report_missing([rank for rank in range(world) if rank not in self.trees], world, {})
            return Map([(f"rank_{rank}", tree) for rank, tree in self.trees.items()])
        lost: dict[tuple[str, ...], str] = {}
        wholes = {path: self.whole(path, lost) for path in self.sharded}
        self.report_missing([rank for rank in range(world) if rank not in self.trees], world, lost)
        self.report_lost(lost)
        if any(path and "flat_param" in path[-1] for path in wholes):
            return self.flat(wholes)
        become = {id(node): wholes[path] for places in self.places.values() for path, node in places if path in wholes}
        merged = [put_in_place(tree, become) for tree in self.trees.values()]
        for other in merged[1:]:
            _add_what_is_missing(merged[0], other)
        return merged[0]

    def whole(self, path: tuple[str, ...], lost: dict[tuple[str, ...], str]) -> Tensor:
        """Return one tensor over the parts of all ranks; without bytes, and noted as lost, where it is not whole."""
        ranks = self.sharded[path]
        first = next(iter(ranks.values()))
        key = ".".join(path)
        size = element_count(first.shape) * DTYPES[first.dtype].itemsize
        storage = Storage(key, size, None)
        tensor = Tensor(storage, first.dtype, 0, first.shape, contiguous_stride(first.shape))
        tensor.parameter, tensor.requires_grad = first.parameter, first.requires_grad
        problem = next((sharded.problem for sharded in ranks.values() if sharded.problem), "")
        if any((sharded.dtype, sharded.shape) != (first.dtype, first.shape) for sharded in ranks.values()):
            problem = "the files do not agree on its element type or shape: they are of different saves"
        if problem:
            lost[path] = problem
            return tensor
        # Replicas have the same parts: those of the lowest rank are read.
        parts = {
            (part.offsets, part.sizes): (own, part)
            for rank in sorted(ranks, reverse=True)
            for own, boxes in ranks[rank].pieces
            for part in boxes
            if element_count(part.sizes)
        }
        boxes = [Box(at, sizes, PartReader(own, part.start)) for (at, sizes), (own, part) in sorted(parts.items())]
        problem = check_tiling(first.shape, boxes)
        if problem:
            lost[path] = problem
        elif all(own.storage.data is not None for own, _ in parts.values()):
            storage.data = _joined(first.shape, DTYPES[first.dtype].itemsize, boxes)
        return tensor

    def flat(self, wholes: Mapping[tuple[str, ...], Tensor]) -> Map:
        """Return the flat parameters of FSDP 1 whole, and what each rank has of the others beside them."""
        self.folder.add(
            "RK-FILE-62",
            "flat-parameters",
            Severity.WARNING,
            f"{len(wholes):,} flat parameters: the weights of a whole FSDP unit in one row, without names and shapes",
            "the files were saved with StateDictType.LOCAL_STATE_DICT; which weight begins where is known to the "
            "model's code only",
            "load them into the same model with the same number of ranks, and save with torch.distributed.checkpoint",
        )
        by_rank: list[tuple[Value, Value]] = []
        for rank, tree in self.trees.items():
            become = {id(node): wholes[path] for path, node in self.places[rank] if path in wholes}
            by_rank.append((f"rank_{rank}", put_in_place(tree, become)))
        return Map([("flat", Map([(".".join(path), whole) for path, whole in wholes.items()])), *by_rank])

    def report_missing(self, missing: Sequence[int], world: int, lost: Mapping[tuple[str, ...], str]) -> None:
        """Name the files that are not there, and what they hold, as far as the others know."""
        if not missing:
            return
        example = next(iter(self.files.names.values()))
        names = [re.sub(r"(rank[._-]?)\d+", rf"\g<1>{rank}", example) for rank in missing]
        held: dict[int, list[str]] = {}
        for path in list(lost)[:_MAX_NAMED]:
            sharded = next(iter(self.sharded[path].values()))
            for rank, parts in sharded.everywhere():
                if rank in missing:
                    words = [words_of(part, sharded.shape) for part in parts if element_count(part.sizes)]
                    held.setdefault(rank, []).extend(f"{word} of {'.'.join(path)}" for word in words)
        what = f"{len(missing):,} of {world:,} ranks cannot be read: {cut_list(names)}"
        if missing[0] in held and held[missing[0]]:
            what += f"; {'it' if len(missing) == 1 else names[0]} holds {cut_list(held[missing[0]], 3)}"
        self.folder.add(
            "RK-FILE-60",
            "missing-ranks",
            Severity.ERROR if lost else Severity.WARNING,
            what,
            "they are on another node's disk, were not copied, or the save stopped early"
            + ("" if lost else "; what they have is on other ranks too, or of no tensor"),
            "copy the files of all ranks into one folder",
            member=names[0],
        )

    def report_lost(self, lost: Mapping[tuple[str, ...], str]) -> None:
        """Say which tensors are not whole, and why the first of each kind is not."""
        if not lost:
            return
        keys = [".".join(path) for path in lost]
        first = next(iter(lost))
        self.folder.add(
            "RK-FILE-47",
            "incomplete-tensor",
            Severity.ERROR,
            f"{len(keys):,} tensors are not whole: {cut_list(keys)}",
            f"{keys[0]}: {lost[first]}",
            f"rekindle inspect {os.path.join(self.folder.path, next(iter(self.files.names.values())))}"
            "    lists what one rank has",
            key=keys[0],
        )


def _joined(shape: tuple[int, ...], itemsize: int, boxes: Sequence[Box]) -> Bytes:
    """Return the bytes of boxes that tile a shape; runs one after another where they were cut along the first axis."""
    if boxes and shape and all(box.sizes[1:] == shape[1:] for box in boxes):
        return Concatenated(tuple(box.read((0,) * len(shape), box.sizes) for box in boxes))
    return Assembled(shape, itemsize, tuple(boxes))


def _add_what_is_missing(tree: Value, other: Value) -> None:
    """Add to a dict what another rank has under names of its own, at any depth; what both have stays."""
    pending = [(tree, other)]
    seen: set[int] = set()
    while pending:
        mine, more = pending.pop()
        if not isinstance(mine, Map) or not isinstance(more, Map) or id(mine) in seen:
            continue
        seen.add(id(mine))
        known = dict(children(mine))
        for (key, value), (name, _) in zip(more.pairs, children(more), strict=True):
            if name not in known:
                mine.pairs.append((key, value))
            elif isinstance(value, Map):
                pending.append((known[name], value))
