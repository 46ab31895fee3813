"""From the saved object to the list of its tensors: keys, kinds, and a module's state dict.

A key is the path through the object, joined with ``.``; a tensor that is the whole object is called ``tensor``. Keys
are made unique (``#2``, ``#3``) and a finding says so. A tensor made of others (sparse, jagged, quantized per channel)
is listed by its parts, with the layout of the whole.

Law: the file chooses the shape of the object, so nothing here recurses, a value inside itself is entered once, and a
few shared lists with 2^100 paths through them end at a budget that the number of *different* values sets.
"""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding, Severity, Where
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.tensors import DTYPES, TensorEntry, TensorTable
from rekindle.tree import (
    Map,
    Module,
    Record,
    SetOf,
    SparseTensor,
    StorageRef,
    Tensor,
    Value,
    children,
    distinct_nodes,
)

__all__ = ["ROOT_KEY", "kind_of", "state_dict_of", "table_of", "values_of"]

ROOT_KEY = "tensor"

# Containers that are visited before anybody counts how many different ones there are.
_FREE_VISITS = 200_000
# How often a container may be visited on average: once per path, and honest files share few containers.
_VISITS_PER_NODE = 8
_MAX_REPORTED = 16
_MAX_BYTES = 2**63 - 1
_CONTAINERS = frozenset((Map, list, tuple, SetOf, Module, SparseTensor, Record))

_Pending = tuple[str | None, Value, str]


def table_of(tree: Value, limits: Limits = DEFAULT_LIMITS) -> tuple[TensorTable, list[Finding]]:
    """Return the tensors of a saved object in its order, and what is wrong with them.

    Args:
        tree: what a reader made of the file.
        limits: `members` caps the number of entries, `tensor_dims` the dimensions of each.
    """
    listing = _Listing(limits)
    listing.walk(tree)
    return TensorTable(listing.entries), listing.findings


class _Listing:
    """The entries so far, their keys, and how many containers were visited."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.entries: list[TensorEntry] = []
        self.findings: list[Finding] = []
        self.keys: dict[str, int] = {}
        self.outside = 0
        self.repeated = 0

    def walk(self, tree: Value) -> None:
        budget = _FREE_VISITS
        counted = False
        visits = 0
        entered: set[int] = set()
        # (path, node, layout); a layout of "<" marks the way back out of a container.
        pending: list[_Pending] = [(None, tree, "strided")]
        while pending:
            prefix, node, layout = pending.pop()
            kind = type(node)
            if kind is Tensor:
                self.add(prefix, node, layout)  # type: ignore[arg-type]  # the line above
                if node.attributes is not None or node.quantizer is not None:  # type: ignore[union-attr]  # a Tensor
                    pending.extend(_hidden_parts(prefix, node))  # type: ignore[arg-type]  # a Tensor
                continue
            if kind is StorageRef:
                self.add_storage(prefix, node)  # type: ignore[arg-type]  # a StorageRef
                continue
            if kind not in _CONTAINERS:
                continue
            if layout == "<":
                entered.discard(id(node))
                continue
            if id(node) in entered:
                continue
            visits += 1
            if visits > budget or len(self.entries) > self.limits.members:
                if not counted:
                    counted = True
                    budget = max(_FREE_VISITS, _VISITS_PER_NODE * sum(1 for _ in distinct_nodes(tree)))
                if visits > budget or len(self.entries) > self.limits.members:
                    self.report_cut()
                    return
            parts = _parts(prefix, node)
            if parts:
                entered.add(id(node))
                pending.append((prefix, node, "<"))
                parts.reverse()
                pending.extend(parts)

    def key_of(self, prefix: str | None) -> str:
        key = ROOT_KEY if prefix is None else prefix
        count = self.keys.get(key, 0) + 1
        self.keys[key] = count
        if count == 1:
            return key
        unique = f"{key}#{count}"
        while unique in self.keys:
            count += 1
            unique = f"{key}#{count}"
        self.keys[unique] = 1
        self.repeated += 1
        if self.repeated <= _MAX_REPORTED:
            self.findings.append(
                Finding(
                    "RK-FILE-26",
                    "duplicate-key",
                    Severity.WARNING,
                    f"two tensors have the path {key}; the second is listed as {unique}",
                    why="a key of the saved dict contains a dot, or one dict has two keys with the same text",
                    where=Where(key=key),
                )
            )
        return unique

    def add(self, prefix: str | None, tensor: Tensor, layout: str) -> None:
        key = self.key_of(prefix)
        storage, shape, stride = tensor.storage, tensor.shape, tensor.stride
        itemsize = DTYPES[tensor.dtype].itemsize
        reach = 1
        for size, step in zip(shape, stride, strict=True):
            if size == 0:
                reach = 0
                break
            reach += (size - 1) * step
        if (stride and min(stride) < 0) or (
            reach and (tensor.offset < 0 or (tensor.offset + reach) * itemsize > storage.size_bytes)
        ):
            self.report_outside(key, tensor, reach, itemsize)
        self.entries.append(
            TensorEntry(
                key,
                tensor.dtype,
                shape,
                stride,
                tensor.offset,
                storage,
                layout,
                tensor.requires_grad,
                tensor.parameter,
                tensor.conj,
                tensor.neg,
            )
        )

    def add_storage(self, prefix: str | None, reference: StorageRef) -> None:
        self.entries.append(
            TensorEntry(
                self.key_of(prefix),
                reference.dtype,
                (reference.numel,),
                (1,),
                reference.offset,
                reference.storage,
                "storage",
            )
        )

    def report_outside(self, key: str, tensor: Tensor, reach: int, itemsize: int) -> None:
        self.outside += 1
        if self.outside > _MAX_REPORTED:
            return
        start = tensor.offset * itemsize
        self.findings.append(
            Finding(
                "RK-FILE-10",
                "tensor-outside-storage",
                Severity.ERROR,
                f"{key}: reaches over bytes {_number(start)} to {_number(start + reach * itemsize)} of storage "
                f"{tensor.storage.id}, which has {tensor.storage.size_bytes:,}",
                why="a number in the file is wrong, by damage or on purpose; reading on gives other tensors' bytes",
                do="get the file again from its source",
                where=Where(key=key),
            )
        )

    def report_cut(self) -> None:
        self.findings.append(
            Finding(
                "RK-FILE-27",
                "repeated-structure",
                Severity.ERROR,
                f"the list of tensors stops after {len(self.entries):,}: the same containers come again and again",
                why="containers that hold each other many times over; no program saves this, a file made to exhaust "
                "readers does",
            )
        )


def _number(value: int) -> str:
    return f"{value:,}" if -_MAX_BYTES <= value <= _MAX_BYTES else f"a {value.bit_length()}-bit number"


def _parts(prefix: str | None, node: Value) -> list[_Pending]:
    """Return the parts of a container that may hold tensors, as (path, value, layout)."""
    layout = node.layout if isinstance(node, SparseTensor) else "strided"
    # A child's path is made here and only for what is visited: it is the hot line of a large listing.
    if prefix is None:
        return [
            (name, child, layout)
            for name, child in children(node)
            if type(child) is Tensor or type(child) in _CONTAINERS or type(child) is StorageRef
        ]
    return [
        (f"{prefix}.{name}", child, layout)
        for name, child in children(node)
        if type(child) is Tensor or type(child) in _CONTAINERS or type(child) is StorageRef
    ]


def _hidden_parts(prefix: str | None, tensor: Tensor) -> list[_Pending]:
    """Return the tensors that belong to a tensor: scales of a quantizer, and attributes."""
    key = ROOT_KEY if prefix is None else prefix
    parts: list[_Pending] = []
    if tensor.attributes is not None:
        parts.extend(
            (f"{key}.{name}", child, "strided")
            for name, child in reversed(children(tensor.attributes))
            if type(child) is Tensor or type(child) in _CONTAINERS
        )
    if tensor.quantizer:
        scheme = tensor.quantizer[0]
        named = zip(("scales", "zero_points"), tensor.quantizer[1:3], strict=False)
        layout = scheme if isinstance(scheme, str) else "quantized"
        tensors = [(f"{key}.{name}", child, layout) for name, child in named if type(child) is Tensor]
        parts.extend(reversed(tensors))
    return parts


def kind_of(tree: Value, table: TensorTable) -> str:
    """Return what was saved: ``tensor``, ``state_dict``, ``checkpoint``, ``module`` or ``object``.

    A *state_dict* is a dict of names to tensors and nothing else; a *checkpoint* is a dict that holds at least one
    tensor, state dict or module among other things.
    """
    if isinstance(tree, (Tensor, SparseTensor)):
        return "tensor"
    if isinstance(tree, Module):
        return "module"
    if isinstance(tree, Map) and tree.pairs and len(table):
        return "state_dict" if _is_state_dict(tree) else "checkpoint"
    return "object"


def _is_state_dict(tree: Map) -> bool:
    return all(
        isinstance(key, (str, bytes))
        and (isinstance(value, (Tensor, SparseTensor)) or (isinstance(key, str) and key.endswith("_extra_state")))
        for key, value in tree.pairs
    )


def state_dict_of(tree: Value) -> Map:
    """Return what ``state_dict()`` of a saved module gives: key -> tensor, in torch's order.

    Parameters, then buffers, then submodules; None entries and buffers registered with ``persistent=False`` are left
    out. A submodule registered under two names comes under both. What a class adds with ``get_extra_state`` or by
    overriding ``state_dict`` is code, which is not run, and so is not there.

    Args:
        tree: a `Module`; a `Map` is returned as it is.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(tree, Map):
        return tree
    if not isinstance(tree, Module):
        raise TypeError(f"a module is wanted, not {type(tree).__name__}")
    return Map(list(_state_of(tree)), "OrderedDict")


def _state_of(tree: Module) -> Iterator[tuple[Value, Value]]:
    visits = 0
    entered: set[int] = set()
    pending: list[tuple[str, Module, bool]] = [("", tree, False)]
    while pending:
        prefix, module, leaving = pending.pop()
        if leaving:
            entered.discard(id(module))
            continue
        visits += 1
        if id(module) in entered or visits > _FREE_VISITS:
            continue
        for name, value in module.parameters.items():
            if isinstance(value, (Tensor, SparseTensor)):
                yield prefix + name, value
        for name, value in module.buffers.items():
            if isinstance(value, (Tensor, SparseTensor)) and name not in module.non_persistent:
                yield prefix + name, value
        entered.add(id(module))
        pending.append((prefix, module, True))
        pending.extend(
            (f"{prefix}{name}.", child, False)
            for name, child in reversed(module.modules.items())
            if isinstance(child, Module)
        )


_MAX_VALUES = 64
_MAX_VALUE_DEPTH = 6
_MAX_LIST = 16


def values_of(tree: Value) -> dict[str, bool | int | float | str]:
    """Return the plain values of a checkpoint by path, the shallow ones first: epoch, step, learning rate.

    At most 64, from dicts and short lists, at most 6 levels down; texts of more than 200 characters are left out.
    """
    values: dict[str, bool | int | float | str] = {}
    level: list[tuple[str, Value]] = [("", tree)]
    visits = 0
    for _ in range(_MAX_VALUE_DEPTH):
        below: list[tuple[str, Value]] = []
        for prefix, node in level:
            for name, child in _plain_parts(node):
                visits += 1
                if name == "params" and isinstance(child, list):
                    continue  # an optimizer's numbering of the parameters
                path = f"{prefix}.{name}" if prefix else name
                if isinstance(child, (bool, int, float)) or (isinstance(child, str) and len(child) <= 200):
                    values.setdefault(path, child)
                    if len(values) >= _MAX_VALUES:
                        return values
                elif isinstance(child, (Map, Record)) or (isinstance(child, (list, tuple)) and len(child) <= _MAX_LIST):
                    below.append((path, child))
                if visits > _FREE_VISITS:
                    return values
        level = below
    return values


def _plain_parts(node: Value) -> list[tuple[str, Value]]:
    if isinstance(node, Record):
        return [("state", node.state)] if isinstance(node.state, Map) else []
    if isinstance(node, (Map, list, tuple)):
        return children(node)
    return []
