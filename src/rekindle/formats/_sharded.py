"""Tensors that are spread over ranks: which part of the whole each file holds, read from DTensor and ShardedTensor.

A DTensor in a file is a local tensor and a specification: the shape of the mesh of ranks, this rank's place in it, and
per axis of the mesh how the tensor is spread over it. From left to right, each placement takes of every rank's rows
(or columns) so far

    Shard(d)                 the c-th of n equal runs along axis d, rounded up, so the last ones may be short or empty
    _StridedShard(d, s)      cut into s runs first, and of each of them the c-th of n: what FSDP2 over tensor
                             parallelism leaves on a rank is therefore several runs, one behind the other
    Replicate                all of it
    Partial                  a summand of it, which only adding all of them makes whole: not put together here

The older ShardedTensor says outright, in a list for all ranks, where each part begins, how large it is and whose it is.

Law: everything is the file's word. A number that cannot be is a `problem` in words, never an exception, and the number
of parts is bounded.

Facts: PyTorch 2.13 `torch/distributed/tensor/{placement_types,_dtensor_spec,_utils}.py`, `device_mesh.py`,
`_mesh_layout.py`, `_shard/sharded_tensor/{api,metadata,shard}.py`, `_shard/metadata.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import prod
from typing import TypeAlias

from rekindle.formats._values import attributes_of, count_of, dtype_of, shape_of
from rekindle.limits import Limits
from rekindle.tensors import Storage, contiguous_stride, element_count
from rekindle.tree import Global, Record, Tensor, Value

__all__ = ["Meshes", "Part", "Sharded", "is_sharded", "local_tensor", "read_sharded", "words_of"]

_KINDS = frozenset(("DTensor", "ShardedTensor"))
# Parts of one tensor on one rank, and ranks of one mesh; honest files have a few of the first, thousands of the second.
_MAX_PARTS = 4096
_MAX_RANKS = 100_000

Everywhere: TypeAlias = "tuple[tuple[int, tuple[Part, ...]], ...]"
_Runs: TypeAlias = tuple[tuple[int, int], ...]  # (first index, length), in the order in which a rank has them


@dataclass(frozen=True, slots=True)
class Part:
    """A box of the whole tensor that a rank has.

    Attributes:
        offsets: index of its first element in the whole.
        sizes: its shape.
        start: index of its first element in the rank's own tensor.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    start: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sharded:
    """What one rank's file says of one tensor.

    Attributes:
        dtype: its element type.
        shape: of the whole.
        pieces: the rank's own tensors, each with the parts of the whole that it consists of.
        everywhere: gives (rank, parts) of all ranks, as far as the file knows.
        rank: whose file it is; None where it does not say.
        world: number of ranks; 0 where it does not say.
        problem: what keeps it from being put together; empty where nothing does.
        parameter: whether it is an `nn.Parameter`.
        requires_grad: as saved.
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[Tensor, tuple[Part, ...]], ...] = ()
    everywhere: Callable[[], Everywhere] = tuple
    rank: int | None = None
    world: int = 0
    problem: str = ""
    parameter: bool = False
    requires_grad: bool = False


def is_sharded(node: Value) -> bool:
    """Tell whether a node is a tensor of which the file has a part only."""
    return _class_of(node) in _KINDS


def _class_of(node: Value) -> str | None:
    if type(node) is Tensor:
        known = node.attributes.pairs if node.attributes is not None else []
        kind = known[0][1] if known and known[0][0] == "__class__" else None
    elif type(node) is Record:
        kind = node.function
    else:
        return None
    return kind.name if type(kind) is Global and kind.module.startswith("torch.distributed.") else None


def words_of(part: Part, shape: Sequence[int]) -> str:
    """Return a part as it is written in Python: ``[4:8, :]``."""
    sides = (
        ":" if (offset, size) == (0, whole) else f"{offset}:{offset + size}"
        for offset, size, whole in zip(part.offsets, part.sizes, shape, strict=True)
    )
    return f"[{', '.join(sides)}]"


def read_sharded(node: Value, limits: Limits, meshes: Meshes) -> Sharded | None:
    """Return what a DTensor or ShardedTensor of a file says; None for anything else.

    Args:
        node: any node.
        limits: caps.
        meshes: what was read of this file's meshes so far; all tensors of a model share one.
    """
    kind = _class_of(node)
    if kind == "DTensor" and type(node) is Tensor:
        return _read_dtensor(node, limits, meshes)
    if kind == "ShardedTensor":
        return _read_sharded_tensor(node, limits)
    return None


def local_tensor(sharded: Sharded) -> Value:
    """Return what the rank itself has: a tensor, a list of them, or one without elements."""
    tensors: list[Value] = [_alone(tensor, sharded) for tensor, _ in sharded.pieces]
    if len(tensors) == 1:
        return tensors[0]
    if tensors:
        return tensors
    shape = (0, *sharded.shape[1:])
    return _alone(Tensor(Storage("none", 0, None), sharded.dtype, 0, shape, contiguous_stride(shape)), sharded)


def _alone(tensor: Tensor, sharded: Sharded) -> Tensor:
    alone = Tensor(tensor.storage, tensor.dtype, tensor.offset, tensor.shape, tensor.stride)
    alone.parameter, alone.requires_grad = sharded.parameter, sharded.requires_grad
    return alone


# --- DTensor ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mesh:
    """A grid of ranks: its sides, where this rank is in it, and the rank at each place, row by row."""

    shape: tuple[int, ...]
    place: tuple[int, ...] | None
    ranks: tuple[int, ...]
    rank: int | None
    world: int


Meshes: TypeAlias = dict[int, _Mesh | None]  # by id of the node that describes it


def _read_dtensor(node: Tensor, limits: Limits, meshes: Meshes) -> Sharded:
    fields = attributes_of(node.attributes)
    local, spec = fields.get("_local_tensor"), attributes_of(fields.get("_spec"))
    known = Sharded(node.dtype, node.shape, parameter=node.parameter, requires_grad=node.requires_grad)
    if type(local) is not Tensor:
        return replace(known, problem="it has no local tensor")
    known = replace(known, pieces=((local, ()),))
    described, placements = spec.get("mesh"), spec.get("placements")
    if id(described) not in meshes:
        meshes[id(described)] = _read_mesh(attributes_of(described), limits)
    mesh = meshes[id(described)]
    if mesh is None or not isinstance(placements, (tuple, list)):
        return replace(known, problem="its mesh or its placements are not described as torch does")
    known = replace(known, rank=mesh.rank, world=mesh.world)
    cuts = _read_placements(placements, mesh, len(node.shape), spec.get("shard_order"))
    if isinstance(cuts, str):
        return replace(known, problem=cuts)
    if mesh.place is None:
        return replace(known, problem="it does not say which rank's part it is")
    parts = _parts_at(node.shape, cuts, mesh.shape, mesh.place)
    if parts is None:
        return replace(known, problem="it is cut into more parts than can be")
    if len(local.shape) != len(node.shape) or sum(element_count(p.sizes) for p in parts) != element_count(local.shape):
        odd = f"the local tensor of shape {list(local.shape)} is not the part that its placements say"
        return replace(known, problem=odd)
    sides = partial(_everywhere, node.shape, cuts, mesh)
    return replace(known, pieces=((local, parts),), everywhere=sides)


def _everywhere(shape: tuple[int, ...], cuts: Sequence[_Cut], mesh: _Mesh) -> Everywhere:
    places = product(*map(range, mesh.shape))
    return tuple(
        (rank, _parts_at(shape, cuts, mesh.shape, place) or ()) for rank, place in zip(mesh.ranks, places, strict=False)
    )


def _read_mesh(said: Mapping[str, Value], limits: Limits) -> _Mesh | None:
    """Return a mesh: its sides from the layout (since 2.9) or from the tensor of ranks (before)."""
    layout, ranks_tensor = attributes_of(said.get("_layout")), said.get("mesh")
    strides: tuple[int, ...] | None = None
    if isinstance(ranks_tensor, Tensor):
        shape: tuple[int, ...] | None = ranks_tensor.shape
    elif "axes" in layout:
        axes = layout["axes"]
        flat = [attributes_of(axis) for axis in axes] if isinstance(axes, (tuple, list)) else []
        sizes = [shape_of(axis.get("shape"), limits) for axis in flat]
        steps = [shape_of(axis.get("stride"), limits) for axis in flat]
        if any(size is None or len(size) != 1 for size in sizes) or any(s is None or len(s) != 1 for s in steps):
            return None
        shape = tuple(size[0] for size in sizes if size)
        strides = tuple(step[0] for step in steps if step)
    else:
        shape, strides = _flat(layout.get("shape"), limits), _flat(layout.get("stride"), limits)
    place = shape_of(said.get("_coordinate_on_dim"), limits)
    if shape is None or not shape or not 0 < prod(shape) <= _MAX_RANKS:
        return None
    if place is not None and (len(place) != len(shape) or any(a >= n for a, n in zip(place, shape, strict=True))):
        return None
    names = said.get("_flatten_rank_map", said.get("_flatten_mesh_list"))
    listed = _ranks_of(names)
    ranks = _ranks_in_order(listed, shape, strides)
    root = attributes_of(said.get("_root_mesh"))
    every = _ranks_of(root.get("_flatten_rank_map", root.get("_flatten_mesh_list"))) or listed
    rank = count_of(said.get("_rank"))
    if rank is None and place is not None and ranks:
        rank = ranks[sum(a * s for a, s in zip(place, contiguous_stride(shape), strict=True))]
    if place is None and rank in ranks:
        place = next(at for at, of in zip(product(*map(range, shape)), ranks, strict=True) if of == rank)
    return _Mesh(shape, place, ranks, rank, len(every))


def _ranks_of(value: object) -> tuple[int, ...]:
    """Return a list of ranks; empty for anything else."""
    if not isinstance(value, (tuple, list)) or len(value) > _MAX_RANKS:
        return ()
    ranks = [count_of(rank) for rank in value]
    return tuple(rank for rank in ranks if rank is not None) if None not in ranks else ()


def _flat(value: Value, limits: Limits) -> tuple[int, ...] | None:
    """Return sizes that may be a single number."""
    return (value,) if count_of(value) is not None else shape_of(value, limits)  # type: ignore[return-value]  # a count


def _ranks_in_order(
    listed: tuple[int, ...], shape: tuple[int, ...], strides: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the ranks of a mesh row by row; empty where the file does not say them all."""
    if strides is None or len(strides) != len(shape):
        return listed if len(listed) == prod(shape) else ()
    places = [sum(a * s for a, s in zip(place, strides, strict=True)) for place in product(*map(range, shape))]
    return tuple(listed[at] for at in places) if listed and max(places) < len(listed) else ()


@dataclass(frozen=True, slots=True)
class _Cut:
    """One placement that cuts: along which axis of the tensor, over which axis of the mesh, in how many runs first."""

    dim: int
    mesh_dim: int
    factor: int


def _read_placements(placements: Sequence[Value], mesh: _Mesh, dims: int, order: Value) -> list[_Cut] | str:
    if len(placements) != len(mesh.shape):
        return f"it has {len(placements):,} placements on a mesh of {len(mesh.shape):,} axes"
    cuts: list[_Cut] = []
    for axis, placement in enumerate(placements):
        function = placement.function if isinstance(placement, Record) else None
        name = function.name if isinstance(function, Global) else ""
        fields = attributes_of(placement)
        if name == "Replicate":
            continue
        if name not in {"Shard", "_StridedShard"}:
            if "Partial" in name:
                return "each rank has a summand of it, and only adding them all makes it whole"
            return f"the placement {name[:64] or type(placement).__name__!r} is not known"
        dim = fields.get("dim")
        factor = count_of(fields.get("split_factor", 1)) if name == "_StridedShard" else 1
        if type(dim) is not int or not -dims <= dim < dims or not factor or factor > _MAX_PARTS:
            return f"a placement cuts along axis {dim!r:.32} of {dims:,}"
        cuts.append(_Cut(dim % dims, axis, factor))
    if not _is_usual_order(order):
        return "its axes were cut in an order of their own (shard_order)"
    return cuts


def _is_usual_order(order: Value) -> bool:
    """Tell whether each axis of the tensor is cut by the axes of the mesh from left to right."""
    for entry in order if isinstance(order, (tuple, list)) else ():
        args = entry.args if isinstance(entry, Record) else entry
        axes = args[1] if isinstance(args, (tuple, list)) and len(args) == 2 else None
        if not isinstance(axes, (tuple, list)):
            return False
        numbers = [axis for axis in axes if type(axis) is int]
        if len(numbers) != len(axes) or numbers != sorted(numbers):
            return False
    return True


def _parts_at(
    shape: tuple[int, ...], cuts: Sequence[_Cut], mesh: tuple[int, ...], place: tuple[int, ...]
) -> tuple[Part, ...] | None:
    """Return the parts that the rank at a place has; None where they are too many."""
    runs: list[_Runs] = [((0, size),) for size in shape]
    for cut in cuts:
        runs[cut.dim] = _cut(runs[cut.dim], cut.factor, mesh[cut.mesh_dim], place[cut.mesh_dim])
        if prod(map(len, runs)) > _MAX_PARTS:
            return None
    starts = [_starts(axis) for axis in runs]
    parts = []
    for choice in product(*(range(len(axis)) for axis in runs)):
        offsets = tuple(axis[i][0] for axis, i in zip(runs, choice, strict=True))
        sizes = tuple(axis[i][1] for axis, i in zip(runs, choice, strict=True))
        parts.append(Part(offsets, sizes, tuple(axis[i] for axis, i in zip(starts, choice, strict=True))))
    return tuple(parts)


def _starts(runs: _Runs) -> list[int]:
    at, starts = 0, []
    for _, length in runs:
        starts.append(at)
        at += length
    return starts


def _cut(runs: _Runs, factor: int, count: int, index: int) -> _Runs:
    """Return of each of `factor` equal runs the `index`-th of `count`; sizes are rounded up, so the last are short."""
    total = sum(length for _, length in runs)
    outer = -(-total // factor)
    taken: list[tuple[int, int]] = []
    for piece in range(factor):
        begin = min(piece * outer, total)
        length = min(outer, total - begin)
        inner = -(-length // count)
        first = min(index * inner, length)
        taken.extend(_between(runs, begin + first, min(inner, length - first)))
    return tuple(taken)


def _between(runs: _Runs, begin: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield what lies in `length` indices from `begin` on, counted along the runs."""
    at = 0
    for first, size in runs:
        low, high = max(begin, at), min(begin + length, at + size)
        if low < high:
            yield first + low - at, high - low
        at += size


# --- ShardedTensor ---------------------------------------------------------------------------------------------------


def _read_sharded_tensor(node: Value, limits: Limits) -> Sharded | None:
    if isinstance(node, Tensor):
        state = attributes_of(node.attributes).get("__state__")
    else:
        state = node.state if isinstance(node, Record) else None
    if not isinstance(state, (tuple, list)) or len(state) < 3:
        return None
    said = attributes_of(state[1])
    group = attributes_of(state[2])
    shape = node.shape if isinstance(node, Tensor) else shape_of(said.get("size"), limits)
    dtype = node.dtype if isinstance(node, Tensor) else _dtype_of(said.get("tensor_properties"))
    if shape is None or dtype is None:
        return None
    rank, world = count_of(group.get("global_rank")), count_of(group.get("global_world_size")) or 0
    everywhere: list[tuple[int, tuple[Part, ...]]] = []
    pieces: list[tuple[Tensor, tuple[Part, ...]]] = []
    problem = ""
    listed, own = said.get("shards_metadata"), state[0]
    for metadata in listed if isinstance(listed, (tuple, list)) else ():
        part = _read_part(attributes_of(metadata), len(shape), limits)
        holder = count_of(attributes_of(attributes_of(metadata).get("placement")).get("_rank"))
        if part is None:
            problem = "one of its parts is not described as torch does"
        elif holder is not None:
            everywhere.append((holder, (part,)))
    for shard in own if isinstance(own, (tuple, list)) else ():
        fields = attributes_of(shard)
        tensor = fields.get("tensor")
        part = _read_part(attributes_of(fields.get("metadata")), len(shape), limits)
        if not isinstance(tensor, Tensor):
            problem = "one of its parts has no tensor"
        elif part is None or part.sizes != tensor.shape:
            problem = f"the local tensor of shape {list(tensor.shape)} is not the part that its description says"
            pieces.append((tensor, ()))
        else:
            pieces.append((tensor, (part,)))
    return Sharded(
        dtype,
        shape,
        tuple(pieces),
        lambda: tuple(everywhere),
        rank,
        world if world <= _MAX_RANKS else 0,
        problem,
        isinstance(node, Tensor) and node.parameter,
        isinstance(node, Tensor) and node.requires_grad,
    )


def _dtype_of(properties: Value) -> str | None:
    state = properties.state if isinstance(properties, Record) else None
    if isinstance(state, (tuple, list)) and state:
        return dtype_of(state[0])
    return dtype_of(attributes_of(properties).get("dtype"))


def _read_part(said: Mapping[str, Value], dims: int, limits: Limits) -> Part | None:
    offsets, sizes = shape_of(said.get("shard_offsets"), limits), shape_of(said.get("shard_sizes"), limits)
    if offsets is None or sizes is None or not len(offsets) == len(sizes) == dims:
        return None
    return Part(offsets, sizes, (0,) * dims)
