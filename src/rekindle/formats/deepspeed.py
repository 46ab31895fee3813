"""DeepSpeed's folders: ZeRO partitions of stages 1 to 3 put together, and universal checkpoints; DeepSpeed not needed.

``latest`` names the folder of a step. There, model files hold shapes, buffers and frozen parameters, optimizer files
the trainable parameters in float32, flat, a partition per rank:

    stages 1, 2   per parameter group: the partitions one after another are all parameters in order, padded at the end
    stage 3       every parameter is cut into as many equal pieces as there are ranks, the last one padded; a rank has
                  its pieces of all parameters in order

so each parameter is a row of ranges in the ranks' files, and nothing is copied. The optimizer's moments lie the same
way and are listed where they are as long as the parameters. Universal checkpoints (``zero/<parameter>/fp32.pt``) hold
one tensor per file; those made of stage 3 hold it as one row, and the model files of all ranks beside it, whose
pieces of frozen parameters are not joined. With tensor parallelism every ``mp_rank`` is a model of its own here:
joining them takes the model's rules, which no file holds.

Facts: DeepSpeed 0.16 and 0.19.8 `deepspeed/utils/zero_to_fp32.py`, `runtime/engine.py` (names of files),
`checkpoint/ds_to_universal.py`; compared with what these programs give on folders that its engine saved. The layout is
theirs, the code is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rekindle.finding import Severity
from rekindle.formats._assembled import Concatenated
from rekindle.formats._folders import Folder, cut_list, is_plain_name, opened_folder
from rekindle.formats._values import count_of, natural_key, number_of, shape_of, text_pairs
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import BufferBytes, Bytes
from rekindle.tensors import DTYPES, Storage, TensorTable, contiguous_stride, element_count
from rekindle.tree import Map, Tensor, Value, lookup

__all__ = ["NAME", "read_folder", "sniff_folder"]

NAME = "deepspeed"

_MODEL = re.compile(r"^(?:zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{1,6})_model_states\.pt$")
_OPTIMIZER = re.compile(r"^(?:bf16_|fp16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{1,6})_optim_states\.pt$")
_OTHER = re.compile(r"^(?:layer_\d+.*|expert_\d+.*)(?:model_states|optim_states)\.pt$")
_LATEST = ("latest", "latest_universal")
_MAX_FILES = 100_000
# Ranks beyond this are taken for made-up numbers when missing ones are named.
_MAX_RANKS = 100_000

# What a model file says that is shown as it is; the rest is weights, or means something to DeepSpeed only.
_FACTS = ("ds_version", "global_steps", "global_samples", "skipped_steps", "dp_world_size", "mp_world_size", "epoch")
_CONSUMED = frozenset(
    ("module", "optimizer", "param_shapes", "buffer_names", "shared_params", "frozen_param_shapes")
) | {"frozen_param_fragments"}


def sniff_folder(path: str) -> bool:
    """Tell whether a folder, or the one that its ``latest`` names, holds ZeRO partitions or a universal checkpoint."""
    return _step_folder(path) is not None


def _step_folder(path: str) -> str | None:
    """Return the folder with the files, which may be a step inside the given one."""
    names = _names(path)
    if _has_states(path, names):
        return path
    for name in _LATEST:
        if name in names:
            tag = _small_text(os.path.join(path, name))
            inside = os.path.join(path, tag)
            if is_plain_name(tag, DEFAULT_LIMITS) and os.path.isdir(inside) and not os.path.islink(inside):
                return inside if _has_states(inside, _names(inside)) else None
    return None


def _has_states(path: str, names: Sequence[str]) -> bool:
    if any(_MODEL.match(name) or _OPTIMIZER.match(name) or _OTHER.match(name) for name in names):
        return True
    return "zero" in names and bool(_universal(path))


def _names(path: str) -> list[str]:
    names: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) >= _MAX_FILES:
                break
    return sorted(names, key=natural_key)


def _small_text(path: str) -> str:
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > 4096:
            return ""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""


def read_folder(path: str, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read the pickles of all files; the elements stay where they are.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
        OSError: the folder may not be read.
    """
    from rekindle.listing import table_of  # noqa: PLC0415

    step = _step_folder(path) or path
    with Folder(step, limits) as folder:
        names = _names(step)
        facts: dict[str, object] = {}
        if step != path:
            facts["tag"] = os.path.basename(step)
        tree = _read_universal(folder, names, facts) if "zero" in names else None
        if tree is None:
            tree = _read_partitions(folder, names, facts)
        _report_other_files(folder, names)
        table, found = table_of(tree, limits) if tree.pairs else (TensorTable(()), [])
        folder.findings.extend(found)
        opened = opened_folder(folder, NAME, tree, table, facts, listed=bool(tree.pairs))
        if step == path:
            return opened
        from dataclasses import replace  # noqa: PLC0415

        return replace(opened, path=path)


def _report_other_files(folder: Folder, names: Sequence[str]) -> None:
    others = [name for name in names if name.endswith((".safetensors", ".bin", ".distcp"))]
    if others:
        folder.add(
            "RK-FILE-51",
            "not-listed",
            Severity.NOTE,
            f"{cut_list(others)} lies beside the partitions and is not listed",
            "the weights in another form, as a rule",
            f"rekindle inspect {os.path.join(folder.path, others[0])}",
            member=others[0],
        )


# --- partitions ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """The files of one model-parallel rank, by data-parallel rank."""

    models: dict[int, str] = field(default_factory=dict)
    optimizers: dict[int, str] = field(default_factory=dict)


def _read_partitions(folder: Folder, names: Sequence[str], facts: dict[str, object]) -> Map:
    groups: dict[int, _Group] = {}
    others: list[str] = []
    for name in names:
        if found := _MODEL.match(name):
            groups.setdefault(int(found[2]), _Group()).models[int(found[1] or 0)] = name
        elif found := _OPTIMIZER.match(name):
            groups.setdefault(int(found[2]), _Group()).optimizers[int(found[1])] = name
        elif _OTHER.match(name):
            others.append(name)
    pairs: list[tuple[Value, Value]] = []
    for rank, group in sorted(groups.items()):
        tree = _Partitions(folder, group, facts).read()
        if len(groups) == 1:
            pairs.extend(tree.pairs)
        else:
            pairs.append((f"mp_rank_{rank:02}", tree))
    if len(groups) > 1:
        folder.add(
            "RK-FILE-58",
            "model-parallel",
            Severity.WARNING,
            f"{len(groups):,} model-parallel ranks are listed as models of their own",
            "which tensors of them were one, and along which axis, is known to the model's code only",
        )
    for name in others:
        opened = folder.open(name)
        if opened is not None and opened.listed:
            pairs.append((name.removesuffix(".pt"), opened.tree))
    return Map(pairs)


@dataclass(slots=True)
class _Slice:
    """Where a parameter lies in the flat partitions: pieces (rank, first element, elements) of one group."""

    group: int
    pieces: list[tuple[int, int, int]]


class _Partitions:
    """One model while it is put together.

    Args:
        folder: where the files are.
        group: their names.
        facts: what is learnt besides.
    """

    def __init__(self, folder: Folder, group: _Group, facts: dict[str, object]) -> None:
        """Read nothing yet."""
        self.folder = folder
        self.group = group
        self.facts = facts
        self.lost: dict[str, None] = {}

    def read(self) -> Map:
        """Return ``module`` (key -> tensor), ``optimizer`` where its state is as long as the weights, and the rest."""
        models = {rank: self.tree_of(name) for rank, name in sorted(self.group.models.items())}
        optimizers = {rank: self.tree_of(name) for rank, name in sorted(self.group.optimizers.items())}
        # The lowest rank stands for all in what they have in common.
        model = next((tree for tree in models.values() if tree is not None), None)
        first = next((tree for tree in optimizers.values() if tree is not None), None)
        state = lookup(first, "optimizer_state_dict")
        stage = number_of(lookup(state, "zero_stage"))
        for name in _FACTS:
            value = lookup(model, name)
            if isinstance(value, (str, int, float)):
                self.facts[name] = value
        if stage is None:
            return self.without_partitions(model, optimizers)
        self.facts["zero_stage"] = stage
        world = self.world_of(state, optimizers)
        self.facts["partitions"] = world
        missing = [rank for rank in range(world) if optimizers.get(rank) is None]
        self.report_missing(missing, world, stage)
        flats = {
            rank: self.flat_of(tree, "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups")
            for rank, tree in optimizers.items()
            if tree is not None
        }
        shapes = self.shapes_of(model)
        if not shapes:
            self.folder.add(
                "RK-FILE-59",
                "odd-partition",
                Severity.ERROR,
                "no model file says the names and shapes of the parameters (param_shapes)",
                "the file mp_rank_00_model_states.pt is missing, damaged or of another program",
                "copy it from the node of rank 0",
            )
        plan = self.plan_stage3(shapes, world) if stage == 3 else self.plan_stage2(shapes, flats, world)
        module = self.module_of(models, shapes, plan, flats, world, in_pieces=stage == 3)
        self.report_lost(missing)
        pairs: list[tuple[Value, Value]] = [("module", module)]
        moments = self.moments_of(optimizers, shapes, plan)
        if moments is not None:
            pairs.append(("optimizer", moments))
        pairs.extend(self.rest_of(model))
        return Map(pairs)

    def tree_of(self, name: str) -> Value:
        opened = self.folder.open(name)
        return opened.tree if opened is not None and opened.listed else None

    def without_partitions(self, model: Value, optimizers: Mapping[int, Value]) -> Map:
        """Return a model file as it is: stage 0, or a folder whose optimizer files were removed."""
        if model is None:
            return Map([(f"optimizer_{rank}", tree) for rank, tree in optimizers.items() if tree is not None])
        if lookup(model, "param_shapes") is not None:
            self.folder.add(
                "RK-FILE-60",
                "missing-ranks",
                Severity.WARNING,
                "there are no partitions (*_optim_states.pt); the weights of the model file are listed",
                "they were removed or not copied; in stage 3 the model file has no weights of its own, in the other "
                "stages they have the precision of training",
                "copy the *_optim_states.pt files of all ranks into the folder",
            )
        return Map([("module", lookup(model, "module")), *self.rest_of(model)])

    def world_of(self, state: Value, optimizers: Mapping[int, Value]) -> int:
        """Return the number of partitions: as stated, for stages with one count per group the largest."""
        said = lookup(state, "partition_count")
        counts = [number_of(part) for part in said] if isinstance(said, (list, tuple)) else [number_of(said)]
        known = [count for count in counts if count is not None and 0 < count <= _MAX_RANKS]
        return max([*known, max(optimizers, default=0) + 1])

    def report_missing(self, missing: Sequence[int], world: int, stage: int) -> None:
        if not missing:
            return
        ranks = cut_list([str(rank) for rank in missing], 8)
        self.folder.add(
            "RK-FILE-60",
            "missing-ranks",
            Severity.ERROR,
            f"{len(missing):,} of {world:,} partitions are missing: rank {ranks}",
            "they are on another node's disk, were not copied, or the save stopped early"
            + ("; every parameter of stage 3 has a piece in each" if stage == 3 else ""),
            "copy the *_optim_states.pt files of all nodes into one folder",
            member=f"zero_pp_rank_{missing[0]}_mp_rank_00_optim_states.pt",
        )

    def flat_of(self, tree: Value, name: str) -> list[Tensor]:
        """Return the flat tensors of a rank, one per group (stage 3: perhaps several sub-groups, in order)."""
        groups = lookup(lookup(tree, "optimizer_state_dict"), name)
        if isinstance(groups, Tensor):
            return [groups]
        return [part for part in groups if isinstance(part, Tensor)] if isinstance(groups, (list, tuple)) else []

    def shapes_of(self, model: Value) -> list[list[tuple[str, tuple[int, ...]]]]:
        """Return per group the (name, shape) of its parameters, in the order of the partitions."""
        said = lookup(model, "param_shapes")
        groups = said if isinstance(said, (list, tuple)) else [said]
        found: list[list[tuple[str, tuple[int, ...]]]] = []
        for group in groups:
            row: list[tuple[str, tuple[int, ...]]] = []
            for name, value in text_pairs(group):
                shape = shape_of(value, self.folder.limits)
                if shape is None:
                    self.odd(f"{name}: its shape is not written as DeepSpeed does", name)
                    return []
                row.append((name, shape))
            if row:
                found.append(row)
        return found

    def odd(self, what: str, key: str | None = None) -> None:
        self.folder.add(
            "RK-FILE-59",
            "odd-partition",
            Severity.ERROR,
            what,
            "files of two saves were mixed, or DeepSpeed changed its layout",
            "check that all files have the same date",
            key=key,
        )

    def plan_stage2(
        self, shapes: Sequence[Sequence[tuple[str, tuple[int, ...]]]], flats: Mapping[int, list[Tensor]], world: int
    ) -> dict[str, _Slice]:
        """Return where each parameter lies: the partitions of a group are one row of elements, cut by the shapes."""
        plan: dict[str, _Slice] = {}
        for index, row in enumerate(shapes):
            lengths = {rank: element_count(flat[index].shape) for rank, flat in flats.items() if index < len(flat)}
            length = max(lengths.values(), default=0)
            # The last one is saved without its padding, by DeepSpeed 0.19 at least.
            if not length or any(size != length for rank, size in lengths.items() if rank != world - 1):
                odd = sorted(set(lengths.values()))
                self.odd(f"the partitions of parameter group {index} have different lengths: {odd}")
                continue
            wanted = sum(element_count(shape) for _, shape in row)
            align = 2 * world
            held = length * (world - 1) + lengths.get(world - 1, length)
            if not wanted <= held or -(-wanted // align) != -(-held // align):
                self.odd(
                    f"parameter group {index} has {held:,} elements in {world:,} partitions, its shapes need {wanted:,}"
                )
                if wanted > held:
                    continue
            at = 0
            for name, shape in row:
                count = element_count(shape)
                plan[name] = _Slice(index, _cut(at, count, length))
                at += count
        return plan

    def plan_stage3(self, shapes: Sequence[Sequence[tuple[str, tuple[int, ...]]]], world: int) -> dict[str, _Slice]:
        """Return where each parameter lies: a piece on every rank, all at the same place of the ranks' rows."""
        plan: dict[str, _Slice] = {}
        at = 0
        for row in shapes:
            for name, shape in row:
                count = element_count(shape)
                piece = -(-count // world)
                plan[name] = _Slice(
                    -1,
                    [(rank, at, min(piece, count - rank * piece)) for rank in range(world) if rank * piece < count],
                )
                at += piece
        return plan

    def module_of(
        self,
        models: Mapping[int, Value],
        shapes: Sequence[Sequence[tuple[str, tuple[int, ...]]]],
        plan: Mapping[str, _Slice],
        flats: Mapping[int, list[Tensor]],
        world: int,
        *,
        in_pieces: bool,
    ) -> Map:
        """Return buffers, frozen and trainable parameters, and names that share one of them."""
        model = next((tree for tree in models.values() if tree is not None), None)
        values = self.untrained(models, world, in_pieces=in_pieces)
        for row in shapes:
            for name, shape in row:
                where = plan.get(name)
                values[name] = self.gathered(f"module.{name}", shape, where, flats, "float32", parameter=True)
        for alias, source in text_pairs(lookup(model, "shared_params")):
            if isinstance(source, str) and source in values:
                values[alias] = values[source]
        return Map(list(values.items()), "OrderedDict")

    def untrained(self, models: Mapping[int, Value], world: int, *, in_pieces: bool) -> dict[str, Value]:
        """Return what the model files have beyond the trainable parameters: buffers and frozen parameters."""
        model = next((tree for tree in models.values() if tree is not None), None)
        values: dict[str, Value] = {}
        buffers = lookup(model, "buffer_names")
        weights = dict(text_pairs(lookup(model, "module")))
        for name in buffers if isinstance(buffers, (list, tuple)) else ():
            if isinstance(name, str) and name in weights:
                values[name] = weights[name]
        for name, value in text_pairs(lookup(model, "frozen_param_shapes")):
            shape = shape_of(value, self.folder.limits)
            frozen = self.frozen(name, shape, models, world, in_pieces=in_pieces) if shape is not None else None
            if frozen is not None:
                values[name] = frozen
        return values

    def frozen(
        self, name: str, shape: tuple[int, ...], models: Mapping[int, Value], world: int, *, in_pieces: bool
    ) -> Tensor | None:
        """Return a parameter that is not trained: whole in the model file, in stage 3 a piece in each of them."""
        fragments = {
            rank: fragment
            for rank, tree in models.items()
            if isinstance(fragment := lookup(lookup(tree, "frozen_param_fragments"), name), Tensor)
        }
        if not in_pieces:
            return next(iter(fragments.values()), None)
        if not fragments:
            return None
        count = element_count(shape)
        piece = -(-count // world)
        where = _Slice(
            -1, [(rank, 0, min(piece, count - rank * piece)) for rank in range(world) if rank * piece < count]
        )
        dtype = next(iter(fragments.values())).dtype
        flats = {rank: [fragment] for rank, fragment in fragments.items()}
        return self.gathered(f"module.{name}", shape, where, flats, dtype, parameter=True)

    def gathered(
        self,
        key: str,
        shape: tuple[int, ...],
        where: _Slice | None,
        flats: Mapping[int, list[Tensor]],
        dtype: str,
        *,
        parameter: bool = False,
    ) -> Tensor:
        """Return a tensor over its pieces; without bytes where one of them is not there."""
        kinds = {part.dtype for flat in flats.values() for part in flat}
        if len(kinds) == 1:
            dtype = kinds.pop()
        size = element_count(shape) * DTYPES[dtype].itemsize
        storage = Storage(key, size, None)
        tensor = Tensor(storage, dtype, 0, shape, contiguous_stride(shape))
        tensor.parameter = tensor.requires_grad = parameter
        if where is None:
            self.lost[key] = None
            return tensor
        parts: list[Bytes] = []
        for rank, start, count in where.pieces:
            found = _range_of(flats.get(rank, []), where.group, start, count)
            if found is None:
                self.lost[key] = None
                return tensor
            parts.extend(found)
        storage.data = (
            parts[0] if len(parts) == 1 else Concatenated(tuple(parts)) if parts else BufferBytes(memoryview(b""))
        )
        return tensor

    def report_lost(self, missing: Sequence[int]) -> None:
        if not self.lost:
            return
        self.folder.add(
            "RK-FILE-47",
            "incomplete-tensor",
            Severity.ERROR,
            f"{len(self.lost):,} tensors are not whole: {cut_list(list(self.lost))}",
            f"parts of them lie in the partitions of rank {cut_list([str(rank) for rank in missing], 8)}"
            if missing
            else "the partitions are shorter than the shapes need",
            key=next(iter(self.lost)),
        )

    def moments_of(
        self,
        optimizers: Mapping[int, Value],
        shapes: Sequence[Sequence[tuple[str, tuple[int, ...]]]],
        plan: Mapping[str, _Slice],
    ) -> Map | None:
        """Return name of a parameter -> its state, where the optimizer's state is flat as the weights are."""
        states = {rank: self.states_of(_base_state(tree)) for rank, tree in optimizers.items() if tree is not None}
        states = {rank: state for rank, state in states.items() if state}
        if not states:
            if any(_base_state(tree) is not None for tree in optimizers.values()):
                self.folder.add(
                    "RK-FILE-51",
                    "not-listed",
                    Severity.NOTE,
                    "the optimizer's own state is not listed",
                    "it is not laid out as the weights are (an optimizer of another kind, or an older DeepSpeed)",
                )
            return None
        kinds = list(dict.fromkeys(kind for state in states.values() for group in state for kind in group))
        table: dict[str, list[tuple[Value, Value]]] = {}
        for kind in kinds:
            flats = {rank: [group[kind] for group in state if kind in group] for rank, state in states.items()}
            for row in shapes:
                for name, shape in row:
                    tensor = self.gathered(f"optimizer.{name}.{kind}", shape, plan.get(name), flats, "float32")
                    if tensor.storage.data is not None:
                        table.setdefault(name, []).append((kind, tensor))
        if not table:
            return None
        pairs: list[tuple[Value, Value]] = [("state", Map([(name, Map(row)) for name, row in table.items()]))]
        first = next(state for tree in optimizers.values() if (state := _base_state(tree)) is not None)
        groups = [Map([pair for pair in text_pairs(group) if pair[0] not in kinds]) for group in _groups_of(first)]
        if any(group.pairs for group in groups):
            pairs.append(("groups", list(groups)))  # the counters of a group, such as `step`
        if lookup(first, "param_groups") is not None:
            pairs.append(("param_groups", lookup(first, "param_groups")))
        return Map(pairs)

    def states_of(self, state: Value) -> list[dict[str, Tensor]]:
        """Return per group the flat tensors of an optimizer's state by name (``exp_avg``); empty where it has none."""
        found: list[dict[str, Tensor]] = []
        for group in _groups_of(state):
            row = {
                name: value
                for name, value in text_pairs(group)
                if isinstance(value, Tensor) and len(value.shape) == 1 and element_count(value.shape) > 1
            }
            found.append(row)
        return found if any(found) else []

    def rest_of(self, model: Value) -> list[tuple[Value, Value]]:
        """Return what else the model file holds: counters, schedulers, what the user added."""
        return [(name, value) for name, value in text_pairs(model) if name not in _CONSUMED and value is not None]


def _base_state(tree: Value) -> Value:
    """Return the state of the optimizer that DeepSpeed wraps; stage 3 has it under the name of the whole."""
    state = lookup(tree, "optimizer_state_dict")
    found = lookup(state, "base_optimizer_state")
    return found if found is not None else lookup(state, "optimizer_state_dict")


def _groups_of(state: Value) -> list[Value]:
    """Return an optimizer's state per group, in the order of the groups."""
    inner = lookup(state, "state")
    if isinstance(inner, Map):
        return [value for _, value in sorted(inner.pairs, key=lambda pair: count_of(pair[0]) or 0)]
    return list(state) if isinstance(state, (list, tuple)) else []


def _cut(at: int, count: int, length: int) -> list[tuple[int, int, int]]:
    """Return the pieces (rank, first element, elements) of a run in partitions of `length` elements each."""
    pieces: list[tuple[int, int, int]] = []
    while count > 0:
        rank, start = divmod(at, length)
        taken = min(count, length - start)
        pieces.append((rank, start, taken))
        at += taken
        count -= taken
    return pieces


def _range_of(flat: Sequence[Tensor], group: int, start: int, count: int) -> list[Bytes] | None:
    """Return elements of a rank: of one group, or (group -1) of all its tensors as one row; None where they end."""
    from rekindle.errors import UnreadableFile  # noqa: PLC0415
    from rekindle.gather import gather_elements  # noqa: PLC0415

    rows = flat if group < 0 else flat[group : group + 1]
    found: list[Bytes] = []
    for tensor in rows:
        length = element_count(tensor.shape)
        if start >= length:
            start -= length
            continue
        taken = min(count, length - start)
        step = tensor.stride[-1] if len(tensor.shape) == 1 else 1
        if tensor.storage.data is None:
            return None
        try:
            found.append(gather_elements(tensor.storage, tensor.dtype, tensor.offset + start * step, (taken,), (step,)))
        except UnreadableFile:
            return None
        count -= taken
        start = 0
        if not count:
            return found
    return found if not count else None


# --- universal checkpoints -------------------------------------------------------------------------------------------


def _universal(path: str) -> list[str]:
    """Return the names of the parameters of a universal checkpoint: the folders below ``zero``."""
    try:
        return [name for name in _names(os.path.join(path, "zero")) if os.path.isdir(os.path.join(path, "zero", name))]
    except OSError:
        return []


def _read_universal(folder: Folder, names: Sequence[str], facts: dict[str, object]) -> Map | None:
    parameters = _universal(folder.path)
    if not parameters:
        return None
    facts["universal"] = True
    weights: list[tuple[Value, Value]] = []
    states: list[tuple[Value, Value]] = []
    without: list[str] = []
    for name in parameters:
        state: list[tuple[Value, Value]] = []
        for file in _names(os.path.join(folder.path, "zero", name)):
            if not file.endswith(".pt"):
                continue
            opened = folder.open(f"zero/{name}/{file}")
            if opened is None or not opened.listed:
                continue
            value = _parameter_of(opened.tree)
            if file == "fp32.pt":
                weights.append((name, value))
            else:
                state.append((file.removesuffix(".pt"), value))
        if not weights or weights[-1][0] != name:
            without.append(name)
        if state:
            states.append((name, Map(state)))
    if without:
        folder.add(
            "RK-FILE-47",
            "incomplete-tensor",
            Severity.ERROR,
            f"{len(without):,} parameters have no weights (fp32.pt): {cut_list(without)}",
            "the conversion to a universal checkpoint stopped early, or files were not copied",
            key=without[0],
        )
    group = _Group({int(found[1] or 0): name for name in names if (found := _MODEL.match(name))})
    parts = _Partitions(folder, group, facts)
    models = {rank: parts.tree_of(name) for rank, name in sorted(group.models.items())}
    model = next((tree for tree in models.values() if tree is not None), None)
    in_pieces = any(name.startswith("zero_pp_rank_") for name in group.models.values())
    if in_pieces:
        shapes = dict(pair for row in parts.shapes_of(model) for pair in row)
        weights = [(name, _shaped(value, shapes.get(str(name)))) for name, value in weights]
        states = [
            (name, Map([(kind, _shaped(value, shapes.get(str(name)))) for kind, value in text_pairs(state)]))
            for name, state in states
        ]
    known = dict(weights)
    world = max(number_of(lookup(model, "dp_world_size")) or 1, max(models, default=0) + 1)
    for name, value in parts.untrained(models, min(world, _MAX_RANKS), in_pieces=in_pieces).items():
        known.setdefault(name, value)
    parts.report_lost([rank for rank in range(min(world, _MAX_RANKS)) if in_pieces and models.get(rank) is None])
    for alias, source in text_pairs(lookup(model, "shared_params")):
        if isinstance(source, str) and source in known:
            # Made of stages 1 and 2, the alias has a file too: of the model file's 16 bits, not of the float32 weights.
            known[alias] = known[source]
    pairs: list[tuple[Value, Value]] = [("module", Map(list(known.items()), "OrderedDict"))]
    optimizer: list[tuple[Value, Value]] = [("state", Map(states))] if states else []
    if "optimizer_state.pt" in _names(os.path.join(folder.path, "zero")):
        groups = lookup(parts.tree_of("zero/optimizer_state.pt"), "param_groups")
        optimizer.extend([("param_groups", groups)] if groups is not None else [])
    if optimizer:
        pairs.append(("optimizer", Map(optimizer)))
    return Map([*pairs, *parts.rest_of(model)])


def _shaped(value: Value, shape: tuple[int, ...] | None) -> Value:
    """Return a tensor that was written as one row, perhaps padded at the end, in its shape."""
    if not isinstance(value, Tensor) or shape is None or len(value.shape) != 1 or value.stride != (1,):
        return value
    if value.shape[0] < element_count(shape):
        return value
    return Tensor(value.storage, value.dtype, value.offset, shape, contiguous_stride(shape))


def _parameter_of(value: Value) -> Value:
    """Return the tensor of a parameter's file: the file itself, or under ``param`` beside facts about slicing."""
    inner = lookup(value, "param")
    return inner if isinstance(inner, Tensor) else value
