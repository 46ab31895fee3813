"""The saved object as inert values: what every reader produces and every writer takes.

Plain values are themselves: None, bool, int, float, complex, str, bytes, `list` and `tuple`. Everything else is one
of the node types below. Nothing here is ever called, imported or hashed on behalf of a file: mappings are lists of
pairs (a file may choose keys that collide), a class or function is a `Global` (two strings), and what would have been
called is a `Record` of the call. Nodes are mutable because a pickle program changes objects after it memoised them;
they may therefore form cycles, and whoever walks them must expect that (`walk` does).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from rekindle.tensors import Storage

__all__ = [
    "Global",
    "Map",
    "Module",
    "Record",
    "SetOf",
    "SparseTensor",
    "Tensor",
    "Value",
    "children",
    "distinct_nodes",
    "lookup",
    "walk",
]


class Global:
    """A name that the file wants imported: ``module`` and dotted ``name``, never resolved."""

    __slots__ = ("module", "name", "offset")

    def __init__(self, module: str, name: str, offset: int = -1) -> None:
        """Keep the two names and the byte offset of the opcode that asked for them."""
        self.module = module
        self.name = name
        self.offset = offset

    @property
    def path(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        """Show the dotted path."""
        return f"<global {self.path}>"


class Map:
    """A dict or a known kind of it, as pairs in insertion order; a repeated key is kept only once, as dict does.

    Attributes:
        pairs: (key, value), both `Value`.
        type: ``dict``, ``OrderedDict``, ``defaultdict``, ``Counter`` or the dotted path of a subclass.
        attributes: what was set on the object itself (a state dict's ``_metadata``), or None.
    """

    __slots__ = ("attributes", "pairs", "type")

    def __init__(
        self, pairs: list[tuple[Value, Value]] | None = None, type: str = "dict", attributes: Map | None = None
    ) -> None:
        """Keep the pairs; the list is not copied."""
        self.pairs = [] if pairs is None else pairs
        self.type = type
        self.attributes = attributes


class SetOf:
    """A set or frozenset, as a list of its members."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Value], frozen: bool = False) -> None:
        """Keep the members; the list is not copied."""
        self.items = items
        self.frozen = frozen


class StorageRef:
    """A storage that was saved as such, without a tensor around it, or the argument of a rebuild function.

    Attributes:
        storage: the bytes.
        dtype: element type of a typed storage, ``uint8`` for an untyped one.
        offset: first element, in elements of `dtype` (views of old streams start inside their root).
        numel: number of elements.
    """

    __slots__ = ("dtype", "numel", "offset", "storage")

    def __init__(self, storage: Storage, dtype: str, offset: int, numel: int) -> None:
        """Keep the four facts."""
        self.storage = storage
        self.dtype = dtype
        self.offset = offset
        self.numel = numel


class Tensor:
    """A strided tensor that looks into a storage.

    Attributes:
        storage: the bytes; its `data` is None for meta tensors.
        dtype: name in `rekindle.tensors.DTYPES`.
        offset: in elements.
        shape: sizes.
        stride: in elements.
        requires_grad: as saved.
        parameter: whether it was an `nn.Parameter`.
        conj: whether the values are the complex conjugates of the stored bytes.
        neg: whether the values are the negatives of the stored bytes.
        quantizer: ("per_tensor_affine", scale, zero_point), ("per_channel_affine", scales, zero_points, axis) or None.
        attributes: Python attributes saved with it, and the class of a subclass under ``__class__``; None for an
            ordinary tensor.
    """

    __slots__ = (
        "attributes",
        "conj",
        "dtype",
        "neg",
        "offset",
        "parameter",
        "quantizer",
        "requires_grad",
        "shape",
        "storage",
        "stride",
    )

    def __init__(
        self,
        storage: Storage,
        dtype: str,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool = False,
    ) -> None:
        """Describe a plain tensor; the rarer facts are set afterwards."""
        self.storage = storage
        self.dtype = dtype
        self.offset = offset
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad
        self.parameter = False
        self.conj = False
        self.neg = False
        self.quantizer: tuple[Value, ...] | None = None
        self.attributes: Map | None = None


class SparseTensor:
    """A tensor made of other tensors.

    Attributes:
        layout: ``sparse_coo``, ``sparse_csr``, ``sparse_csc``, ``sparse_bsr``, ``sparse_bsc``, ``jagged``, ``nested``.
        shape: sizes of the whole; -1 for a dimension that differs from piece to piece (jagged, nested).
        parts: name -> tensor: ``indices`` and ``values``, or ``crow_indices``, ``col_indices`` and ``values``, ...
        is_coalesced: for ``sparse_coo``; None where the file does not say.
    """

    __slots__ = ("is_coalesced", "layout", "parts", "shape")

    def __init__(
        self, layout: str, shape: tuple[int, ...], parts: dict[str, Tensor], is_coalesced: bool | None = None
    ) -> None:
        """Keep the parts."""
        self.layout = layout
        self.shape = shape
        self.parts = parts
        self.is_coalesced = is_coalesced


class Module:
    """An `nn.Module` of any class, understood from its state; its class is a name only.

    Attributes:
        type: the class.
        parameters: name -> tensor or None, in order of registration.
        buffers: name -> tensor or None.
        modules: name -> submodule or None.
        non_persistent: names of buffers that `state_dict()` leaves out.
        attributes: the rest of its ``__dict__``: settings such as ``in_channels``, ``training``.
        source: the class's source code where the file carries it (streams before torch 1.6), else None.
    """

    __slots__ = ("attributes", "buffers", "modules", "non_persistent", "parameters", "source", "type")

    def __init__(self, type: Global) -> None:
        """Start an empty module of this class."""
        self.type = type
        self.parameters: dict[str, Value] = {}
        self.buffers: dict[str, Value] = {}
        self.modules: dict[str, Value] = {}
        self.non_persistent: tuple[str, ...] = ()
        self.attributes: Map = Map()
        self.source: str | None = None


class Record:
    """What the file would have called: a function or class that rekindle gives no meaning.

    Attributes:
        function: what would have been called; usually a `Global`.
        args: positional arguments, as a tuple or whatever else the file put there.
        kwargs: keyword arguments (`NEWOBJ_EX`), or None.
        state: the argument of its BUILD, or None.
        items: pairs set on it (`SETITEMS`).
        elements: values appended to it (`APPENDS`).
        offset: byte offset of the opcode that made it.
    """

    __slots__ = ("args", "elements", "function", "items", "kwargs", "offset", "state")

    def __init__(self, function: Value, args: Value, kwargs: Value = None, offset: int = -1) -> None:
        """Record a call that never happens."""
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.state: Value = None
        self.items: list[tuple[Value, Value]] = []
        self.elements: list[Value] = []
        self.offset = offset


Value: TypeAlias = (
    "None | bool | int | float | complex | str | bytes | list[Value] | tuple[Value, ...] | "
    "Global | Map | SetOf | StorageRef | Tensor | SparseTensor | Module | Record"
)


def lookup(value: Value, key: str) -> Value:
    """Return the value under a text key of a `Map`, None where there is none (or no `Map`)."""
    if isinstance(value, Map):
        for name, child in value.pairs:
            if name == key:
                return child
    return None


def children(value: Value) -> list[tuple[str, Value]]:
    """Return the named parts of a value, as the path of a key names them; empty for a leaf.

    A record's items and elements are named as those of a dict and a list. A module's children are those that its
    ``state_dict()`` walks, in that order: parameters, buffers, submodules.
    """
    if isinstance(value, Map):
        return [(key if isinstance(key, str) else _key_text(key), child) for key, child in value.pairs]
    if isinstance(value, (list, tuple)):
        return [(str(index), child) for index, child in enumerate(value)]
    if isinstance(value, SetOf):
        return [(str(index), child) for index, child in enumerate(value.items)]
    if isinstance(value, Module):
        return [*value.parameters.items(), *value.buffers.items(), *value.modules.items()]
    if isinstance(value, SparseTensor):
        return list(value.parts.items())
    if isinstance(value, Record):
        parts = [("args", value.args), ("kwargs", value.kwargs), ("state", value.state)]
        named: list[tuple[str, Value]] = [(name, child) for name, child in parts if child is not None and child != ()]
        # A subclass of dict or list shows what it holds as those do: its own name is all that is not known.
        named += [(key if isinstance(key, str) else _key_text(key), child) for key, child in value.items]
        return named + [(str(index), child) for index, child in enumerate(value.elements)]
    return []


def walk(value: Value) -> Iterator[tuple[tuple[str, ...], Value]]:
    """Yield (path, value) for the value and everything below it, parents first, in the order of the file.

    Shared values are yielded once per path; a value inside itself is not entered again. Needs no recursion.
    """
    stack: list[tuple[tuple[str, ...], Value, bool]] = [((), value, False)]
    entered: set[int] = set()  # ids of the containers on the path from the root to here
    while stack:
        path, node, leaving = stack.pop()
        if leaving:
            entered.discard(id(node))
            continue
        if id(node) in entered:
            continue
        yield path, node
        parts = children(node)
        if parts:
            entered.add(id(node))
            stack.append((path, node, True))
            stack.extend(((*path, name), child, False) for name, child in reversed(parts))


def distinct_nodes(value: Value) -> Iterator[Value]:
    """Yield each container, tensor and record below a value once, whatever number of paths lead to it; no recursion.

    The walk to use where only *what* is there matters: `walk` visits a shared value once per path, and a hostile file
    of a few hundred bytes has 2^100 paths.
    """
    stack = [value]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if node is None or isinstance(node, (str, int, float, bytes, complex)) or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if type(node) is not Tensor or node.attributes is not None or node.quantizer is not None:
            stack.extend(reversed(_held_by(node)))


def _held_by(node: Value) -> list[Value]:
    """Return what a node holds itself; no temporary containers, whose ids could come again."""
    if isinstance(node, Map):
        held = [child for _, child in node.pairs]
        return [*held, node.attributes] if node.attributes is not None else held
    if isinstance(node, (list, tuple)):
        return list(node)
    if isinstance(node, SetOf):
        return list(node.items)
    if isinstance(node, Module):
        return [*node.parameters.values(), *node.buffers.values(), *node.modules.values(), node.attributes]
    if isinstance(node, SparseTensor):
        return list(node.parts.values())
    if isinstance(node, Tensor):
        return [node.attributes, *(node.quantizer or ())]
    if isinstance(node, Record):
        pairs = [part for pair in node.items for part in pair]
        return [node.function, node.args, node.kwargs, node.state, *pairs, *node.elements]
    return []


def _key_text(key: Value) -> str:
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    if isinstance(key, (bool, int, float)) or key is None:
        return str(key)
    if isinstance(key, tuple):
        return "(" + ", ".join(_key_text(part) for part in key) + ")"
    return key if isinstance(key, str) else type(key).__name__
