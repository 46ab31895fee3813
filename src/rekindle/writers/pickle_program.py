"""A tree as a pickle program of protocol 2, in the words that `torch.load(weights_only=True)` accepts.

Only opcodes and globals on torch's own list are written, whatever the tree came from, so that nobody ever needs to
lower their guard to open a file of ours. The price: values beyond that list (functions, objects of unknown classes,
frozen sets) cannot be written. Each is handed to `unfit` with its path and the reason; what happens then, an error or
an entry in a list of losses, is the caller's choice.

What is the same object in the tree is the same object in the file: containers, tensors and storages are memoised by
identity, text by value. A storage that tensors of different types look into is written without a type, and each tensor
carries its own (`_rebuild_tensor_v3`): torch itself refuses to save such tensors.

The tree is walked with an explicit stack, so depth costs no recursion. Facts: PyTorch 2.13 `torch/_tensor.py`
(`_reduce_ex_internal`), `torch/_utils.py` (rebuild functions), `torch/_weights_only_unpickler.py` (what is accepted),
CPython `Lib/pickle.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from rekindle.errors import CannotWrite
from rekindle.gather import gather_elements
from rekindle.source import Bytes
from rekindle.tensors import DTYPES, Storage
from rekindle.tree import (
    Global,
    Map,
    Module,
    Record,
    SetOf,
    SparseTensor,
    StorageRef,
    Tensor,
    Value,
    distinct_nodes,
)

__all__ = ["Program", "StoredStorage", "Unfit", "path_text", "program_of", "refuse"]

Path = tuple[object, ...]
Unfit = Callable[[Path, str], None]


@dataclass(frozen=True, slots=True)
class StoredStorage:
    """One storage that a program refers to.

    Attributes:
        key: its name in the program.
        data: its bytes, little-endian.
        numel: what the program says: elements of its type, or bytes where it has none.
        itemsize: bytes of one of them.
        storage: where it comes from.
    """

    key: str
    data: Bytes
    numel: int
    itemsize: int
    storage: Storage


@dataclass(frozen=True, slots=True)
class Program:
    """A pickle program and what it refers to.

    Attributes:
        pickle: the program, from PROTO to STOP.
        storages: in the order of their first appearance; keys are ``0``, ``1``, ...
    """

    pickle: bytes
    storages: tuple[StoredStorage, ...]


def path_text(path: Path) -> str:
    """Return a path as a person would write it: ``['model']['sampler']``; empty for the whole object."""
    return "".join(f"[{part!r}]" for part in path)


def refuse(path: Path, why: str) -> None:
    """Raise `CannotWrite` with the place: the `Unfit` of a caller who wants all or nothing."""
    raise CannotWrite(
        f"at {path_text(path) or 'the top'}: {why}",
        why="a file that opens without running code holds tensors, dicts, lists, tuples, sets and plain values only",
        do="leave it out, or turn it into plain values first",
    )


def program_of(tree: Value, *, stream: bool = False, unfit: Unfit = refuse) -> Program:
    """Return the program that makes this tree.

    Args:
        tree: what to write.
        stream: for the old stream, whose persistent ids have one part more.
        unfit: called with (path, reason) for every value that cannot be written. Where it returns, the value is left
            out: with its key from a mapping or set, as None from a list or a tuple.

    Raises:
        CannotWrite: from `refuse`; also when the whole tree is one value that cannot be written.
    """
    return _Writer(tree, stream, unfit).program()


# --- opcodes, as Lib/pickle.py names them -----------------------------------------------------------------------------

_PROTO, _STOP, _MARK = b"\x80\x02", b".", b"("
_EMPTY_DICT, _EMPTY_LIST, _EMPTY_TUPLE = b"}", b"]", b")"
_SETITEMS, _APPENDS, _BUILD, _REDUCE, _POP = b"u", b"e", b"b", b"R", b"0"
_TUPLE, _TUPLES = b"t", (b")", b"\x85", b"\x86", b"\x87")
_BINPERSID = b"Q"
_BATCH = 1000

# Globals that stand for values and are on torch's list.
_QSCHEMES = frozenset(
    (
        "per_tensor_affine",
        "per_tensor_symmetric",
        "per_channel_affine",
        "per_channel_symmetric",
        "per_channel_affine_float_qparams",
    )
)
_NARROW_INTS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8))

# Calls on torch's list whose result is a plain value.
_PLAIN_CALLS = {
    "torch.Size": "torch Size",
    "torch.device": "torch device",
    "torch.serialization._get_layout": "torch.serialization _get_layout",
    "builtins.bytearray": "__builtin__ bytearray",
    "__builtin__.bytearray": "__builtin__ bytearray",
}

# The order of the arguments that rebuild a sparse tensor, by layout.
_SPARSE_PARTS = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}
_NESTED_PARTS = ("buffer", "sizes", "strides", "storage_offsets")
_LAYOUTS = frozenset((*_SPARSE_PARTS, "strided", "jagged"))
_TORCH_NAMES = _QSCHEMES | _NARROW_INTS | _LAYOUTS


@dataclass(frozen=True, slots=True)
class _Leave:
    """Work to do when the children of a container are written.

    Attributes:
        node: the container, memoised now; None where there is nothing to memoise.
        ops: what closes it.
        size: for a tuple, how many values lie on the stack (it may have been written inside itself).
    """

    node: Value
    ops: bytes
    size: int = -1


class _Writer:
    """Holds the program while it grows, and what is in its memo."""

    def __init__(self, tree: Value, stream: bool, unfit: Unfit) -> None:
        self.tree = tree
        self.stream = stream
        self.unfit = unfit
        self.out = bytearray(_PROTO)
        self.memo: dict[int, int] = {}
        self.texts: dict[str, int] = {}
        self.globals: dict[str, int] = {}
        self.count = 0  # entries in the memo
        self.storages: dict[int, StoredStorage] = {}
        self.state_dicts: dict[int, Map] = {}  # by id of the module; keeps them alive while their ids are in the memo
        self.types = _types_of_storages(tree)
        self.typed: dict[int, bool] = {}
        self.open: set[int] = set()  # nodes that enter the memo only when their parts are written
        # Work to do, last first: (value, path), or what closes a container.
        self.pending: list[tuple[Value, Path] | _Leave | bytes] = []

    def program(self) -> Program:
        reason = self.why_unfit(self.tree)
        if reason:
            refuse((), reason)
        self.pending.append((self.tree, ()))
        while self.pending:
            work = self.pending.pop()
            if isinstance(work, bytes):
                self.out += work
            elif isinstance(work, _Leave):
                self.leave(work)
            else:
                self.value(*work)
        self.out += _STOP
        return Program(bytes(self.out), tuple(self.storages.values()))

    # --- values -------------------------------------------------------------------------------------------------------

    def value(self, value: Value, path: Path) -> None:
        """Write one value, or put its parts on the list of work."""
        if self.scalar(value):
            return
        if isinstance(value, Module):
            value = self.state_dict(value)
        known = self.memo.get(id(value))
        if known is not None:
            self.get(known)
        elif id(value) in self.open and not isinstance(value, tuple):
            # A tuple inside itself ends, since the list or dict between is in the memo; these would go on for ever.
            self.unfit(path, "it contains itself")
            self.out += b"N"
        elif isinstance(value, Map):
            self.map(value, path)
        elif isinstance(value, list):
            self.out += _EMPTY_LIST
            self.put(value)
            self.elements(value, path, _APPENDS)
        elif isinstance(value, tuple):
            self.tuple_(value, path)
        elif isinstance(value, SetOf):
            self.set_(value, path)
        elif isinstance(value, Tensor):
            self.tensor(value, path)
        elif isinstance(value, SparseTensor):
            self.sparse(value)
        elif isinstance(value, StorageRef):
            self.storage_alone(value)
        elif isinstance(value, Global):
            self.name(value.name)
        elif isinstance(value, Record):
            self.plain_call(value, path)
        else:
            raise TypeError(f"not a value of a tree: {type(value).__name__}")

    def name(self, name: str) -> None:
        """Write one of torch's dtypes, quantization schemes or layouts."""
        if name in _LAYOUTS:
            self.global_("torch.serialization", "_get_layout")
            self.text(f"torch.{name}")
            self.out += _TUPLES[1] + _REDUCE
        else:
            self.global_("torch", name)

    def scalar(self, value: Value) -> bool:
        """Write a plain value; False where it is none."""
        if value is None:
            self.out += b"N"
        elif isinstance(value, bool):
            self.out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self.out += _int_ops(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self.text(value)
        elif isinstance(value, bytes):
            self.byte_string(value)
        elif isinstance(value, complex):
            self.global_("__builtin__", "complex")
            self.out += struct.pack(">cdcd", b"G", value.real, b"G", value.imag) + _TUPLES[2] + _REDUCE
        else:
            return False
        return True

    def text(self, value: str) -> None:
        known = self.texts.get(value)
        if known is not None:
            self.get(known)
            return
        # Half a surrogate pair is what os.fsdecode makes of odd file names; both unpicklers take it.
        data = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + len(data).to_bytes(4, "little") + data
        self.texts[value] = self.put_new()

    def byte_string(self, value: bytes) -> None:
        """Write bytes as protocol 2 must: as text of the characters 0 to 255, encoded back."""
        self.global_("_codecs", "encode")
        self.text(value.decode("latin1"))
        self.text("latin1")
        self.out += _TUPLES[2] + _REDUCE

    def map(self, value: Map, path: Path) -> None:
        after: list[tuple[Value, Path] | _Leave | bytes] = []
        if value.type == "Counter":
            self.global_("collections", "Counter")
            self.out += _EMPTY_DICT
            after.append(self.later(value, _TUPLES[1] + _REDUCE))
        elif value.type == "OrderedDict":
            self.global_("collections", "OrderedDict")
            self.out += _EMPTY_TUPLE + _REDUCE
            self.put(value)
            state = self.fitting_attributes(value.attributes, path)
            if state is not None:
                after += [(state, path), _BUILD]
        else:
            if value.type != "dict":
                self.unfit(path, f"a {value.type} can only be written as a plain dict")
            self.out += _EMPTY_DICT
            self.put(value)
        work: list[tuple[Value, Path] | _Leave | bytes] = []
        pairs = [pair for pair in value.pairs if self.pair_fits(pair, path)]
        for start in range(0, len(pairs), _BATCH):
            work.append(_MARK)
            for key, child in pairs[start : start + _BATCH]:
                work += [(key, path), (child, (*path, _key_text(key)))]
            work.append(_SETITEMS)
        self.pending.extend(reversed(work + after))

    def fitting_attributes(self, attributes: Map | None, path: Path) -> Map | None:
        """Return the attributes of an object without those that cannot be written; None where none is left."""
        if attributes is None:
            return None
        pairs: list[tuple[Value, Value]] = [
            (key, child)
            for key, child in attributes.pairs
            if isinstance(key, str) and not _is_ours(key) and self.pair_fits((key, child), path)
        ]
        if not pairs:
            return None
        found = Map(pairs)
        self.state_dicts[id(found)] = found
        return found

    def pair_fits(self, pair: tuple[Value, Value], path: Path) -> bool:
        key, child = pair
        place = (*path, _key_text(key))
        reason = self.why_unfit(child)
        if not reason and not _is_plain_key(key):
            reason = "its key is not a plain value"
        if reason:
            self.unfit(place, reason)
        return not reason

    def elements(self, items: list[Value], path: Path, close: bytes) -> None:
        """Put the elements of a list on the list of work, in batches; None stands for one that cannot be written."""
        work: list[tuple[Value, Path] | _Leave | bytes] = []
        for start in range(0, len(items), _BATCH):
            work.append(_MARK)
            for index, item in enumerate(items[start : start + _BATCH], start):
                work.append((self.fitting(item, (*path, index)), (*path, index)))
            work.append(close)
        self.pending.extend(reversed(work))

    def fitting(self, item: Value, path: Path) -> Value:
        reason = self.why_unfit(item)
        if reason:
            self.unfit(path, reason)
            return None
        return item

    def tuple_(self, value: tuple[Value, ...], path: Path) -> None:
        if not value:
            self.out += _EMPTY_TUPLE
            return
        if len(value) > 3:
            self.out += _MARK
        close = _TUPLES[len(value)] if len(value) <= 3 else _TUPLE
        self.pending.append(self.later(value, close, len(value)))
        for index in range(len(value) - 1, -1, -1):
            place = (*path, index)
            self.pending.append((self.fitting(value[index], place), place))

    def set_(self, value: SetOf, path: Path) -> None:
        if value.frozen:
            self.unfit(path, "a frozenset can only be written as a set")
        self.global_("__builtin__", "set")
        self.out += _EMPTY_LIST
        items: list[Value] = []
        for index, item in enumerate(value.items):
            reason = self.why_unfit(item) or ("" if _is_plain_key(item) else "a set holds plain values only")
            if reason:
                self.unfit((*path, index), reason)
            else:
                items.append(item)
        self.pending.append(self.later(value, _TUPLES[1] + _REDUCE))
        self.elements(items, path, _APPENDS)

    def plain_call(self, value: Record, path: Path) -> None:
        assert isinstance(value.function, Global)  # noqa: S101 - why_unfit looked
        module, name = _PLAIN_CALLS[value.function.path].split(" ")
        self.global_(module, name)
        args = value.args if isinstance(value.args, tuple) else ()
        self.pending.append(self.later(value, _REDUCE))
        self.pending.append((tuple(args), path))

    def later(self, node: Value, ops: bytes, size: int = -1) -> _Leave:
        self.open.add(id(node))
        return _Leave(node, ops, size)

    def leave(self, work: _Leave) -> None:
        self.open.discard(id(work.node))
        known = self.memo.get(id(work.node)) if work.size >= 0 else None
        if known is None:
            self.out += work.ops
            self.put(work.node)
            return
        # The tuple holds something that holds the tuple, which was written inside: drop the parts, fetch the whole.
        self.out += b"1" if work.size > 3 else _POP * work.size
        self.get(known)

    # --- tensors ------------------------------------------------------------------------------------------------------

    def tensor(self, value: Tensor, path: Path) -> None:
        """Write a tensor: a call of the rebuild function, inside that of a parameter or of one with attributes."""
        attributes = self.fitting_attributes(value.attributes, path)
        cls = _class_of(value)
        if cls:
            self.unfit(path, f"the tensor's class {cls} is left out, its values are kept")
        if value.parameter:
            self.global_("torch._utils", f"_rebuild_parameter{'_with_state' if attributes else ''}")
            self.out += _MARK
            self.plain_tensor(value, requires_grad=False)
            self.out += b"\x88" if value.requires_grad else b"\x89"
            self.no_hooks()
        elif attributes is not None:
            self.global_("torch._tensor", "_rebuild_from_type_v2")
            self.out += _MARK
            self.global_(*self.rebuild_function(value))
            self.global_("torch", "Tensor")
            self.rebuild_arguments(value, value.requires_grad)
        else:
            self.plain_tensor(value, value.requires_grad)
            self.put(value)
            return
        self.pending.append(self.later(value, _TUPLE + _REDUCE))
        if attributes is not None:
            self.pending.append((attributes, path))

    def plain_tensor(self, value: Tensor, requires_grad: bool) -> None:
        self.global_(*self.rebuild_function(value))
        self.rebuild_arguments(value, requires_grad)
        self.out += _REDUCE

    def rebuild_function(self, value: Tensor) -> tuple[str, str]:
        if value.storage.device == "meta":
            return "torch._utils", "_rebuild_meta_tensor_no_storage"
        if value.quantizer is not None:
            return "torch._utils", "_rebuild_qtensor"
        return "torch._utils", "_rebuild_tensor_v2" if self.is_typed(value.storage) else "_rebuild_tensor_v3"

    def rebuild_arguments(self, value: Tensor, requires_grad: bool) -> None:
        grad = b"\x88" if requires_grad else b"\x89"
        self.out += _MARK
        if value.storage.device == "meta":
            self.global_("torch", value.dtype)
            self.numbers(value.shape)
            self.numbers(value.stride)
            self.out += grad + _TUPLE
            return
        self.persistent_id(value.storage)
        self.out += _int_ops(value.offset)
        self.numbers(value.shape)
        self.numbers(value.stride)
        if value.quantizer is not None:
            self.quantizer(value.quantizer)
        self.out += grad
        self.no_hooks()
        if value.quantizer is None:
            if not self.is_typed(value.storage):
                self.global_("torch", value.dtype)
            if value.conj or value.neg:
                self.out += _EMPTY_DICT
                for name, is_set in (("conj", value.conj), ("neg", value.neg)):
                    if is_set:
                        self.text(name)
                        self.out += b"\x88s"
        self.out += _TUPLE

    def quantizer(self, quantizer: tuple[Value, ...]) -> None:
        """Write (scheme, scale, zero point) or (scheme, scales, zero points, axis); scales may be tensors."""
        self.out += _MARK
        scheme = quantizer[0]
        self.global_("torch", scheme.name if isinstance(scheme, Global) else str(scheme))
        for part in quantizer[1:]:
            if isinstance(part, Tensor):
                known = self.memo.get(id(part))
                if known is not None:
                    self.get(known)
                else:
                    self.plain_tensor(part, part.requires_grad)
                    self.put(part)
            else:
                self.scalar(part)
        self.out += _TUPLE

    def sparse(self, value: SparseTensor) -> None:
        """Write a tensor made of others; that it is a parameter is noted at its values."""
        values = value.parts.get("values")
        parameter = values is not None and values.parameter
        if parameter:
            self.global_("torch._utils", "_rebuild_parameter")
        if value.layout in _SPARSE_PARTS:
            self.global_("torch._utils", "_rebuild_sparse_tensor")
            self.name(value.layout)
            self.out += _MARK
            for name in _SPARSE_PARTS[value.layout]:
                self.part(value.parts[name])
            self.global_("torch", "Size")
            self.numbers(value.shape)
            self.out += _TUPLES[1] + _REDUCE
            if value.layout == "sparse_coo" and value.is_coalesced is not None:
                self.out += b"\x88" if value.is_coalesced else b"\x89"
            self.out += _TUPLE + _TUPLES[2] + _REDUCE
        else:
            self.global_("torch._utils", "_rebuild_nested_tensor")
            self.out += _MARK
            for name in _NESTED_PARTS:
                self.part(value.parts[name])
            self.out += _TUPLE + _REDUCE
        if parameter and values is not None:
            self.out += b"\x88" if values.requires_grad else b"\x89"
            self.no_hooks()
            self.out += _TUPLES[3] + _REDUCE
        self.put(value)

    def part(self, value: Tensor) -> None:
        known = self.memo.get(id(value))
        if known is not None:
            self.get(known)
            return
        self.plain_tensor(value, value.requires_grad and not value.parameter)
        self.put(value)

    def storage_alone(self, value: StorageRef) -> None:
        itemsize = DTYPES[value.dtype].itemsize
        storage = value.storage
        if value.offset or value.numel * itemsize != storage.size_bytes:
            # A window into a storage; this container knows only whole ones, so it gets its own bytes.
            data = gather_elements(storage, value.dtype, value.offset, (value.numel,), (1,))
            storage = Storage(storage.id, value.numel * itemsize, data)
            self.types[id(storage)] = (storage, {value.dtype})
        self.persistent_id(storage)
        self.put(value)

    # --- storages -----------------------------------------------------------------------------------------------------

    def is_typed(self, storage: Storage) -> bool:
        """Whether the program gives the storage a type, so that its tensors need none."""
        known = self.typed.get(id(storage))
        if known is None:
            _, names = self.types[id(storage)]
            kind = DTYPES[min(names)]
            known = len(names) == 1 and kind.storage is not None and storage.size_bytes % kind.itemsize == 0
            self.typed[id(storage)] = known
        return known

    def persistent_id(self, storage: Storage) -> None:
        stored = self.storages.get(id(storage))
        if stored is None:
            stored = self.storages[id(storage)] = self.stored(storage)
        self.out += _MARK
        self.text("storage")
        if self.is_typed(storage):
            _, names = self.types[id(storage)]
            self.global_("torch", str(DTYPES[next(iter(names))].storage))
        elif self.stream:
            # torch writes UntypedStorage into streams too, and then cannot read them; plain bytes it can.
            self.global_("torch", "ByteStorage")
        else:
            self.global_("torch.storage", "UntypedStorage")
        self.text(stored.key)
        self.text("cpu")  # device-neutral: opens on any machine, whatever it was saved on
        self.out += _int_ops(stored.numel)
        if self.stream:
            self.out += b"N"  # no view
        self.out += _TUPLE + _BINPERSID

    def stored(self, storage: Storage) -> StoredStorage:
        _, names = self.types[id(storage)]
        first = min(names)
        itemsize = DTYPES[first].itemsize if self.is_typed(storage) else 1
        numel = storage.size_bytes // itemsize
        whole = storage.size_bytes // DTYPES[first].itemsize
        data = (
            gather_elements(storage, first, 0, (whole,), (1,), name=f"storage {storage.id}")
            if storage.byteorder == "big" and whole * DTYPES[first].itemsize == storage.size_bytes
            else gather_elements(storage, "uint8", 0, (storage.size_bytes,), (1,), name=f"storage {storage.id}")
        )
        return StoredStorage(str(len(self.storages)), data, numel, itemsize, storage)

    # --- small things -------------------------------------------------------------------------------------------------

    def state_dict(self, module: Module) -> Map:
        """Return the module's state dict, the same one each time."""
        found = self.state_dicts.get(id(module))
        if found is None:
            from rekindle.listing import state_dict_of  # noqa: PLC0415 - only whole modules need it

            found = self.state_dicts[id(module)] = state_dict_of(module)
        return found

    def numbers(self, sizes: tuple[int, ...]) -> None:
        if len(sizes) > 3:
            self.out += _MARK
        for size in sizes:
            self.out += _int_ops(size)
        self.out += _TUPLES[len(sizes)] if len(sizes) <= 3 else _TUPLE

    def no_hooks(self) -> None:
        self.global_("collections", "OrderedDict")
        self.out += _EMPTY_TUPLE + _REDUCE

    def global_(self, module: str, name: str) -> None:
        path = f"{module}\n{name}\n"
        known = self.globals.get(path)
        if known is not None:
            self.get(known)
            return
        self.out += b"c" + path.encode()
        self.globals[path] = self.put_new()

    def get(self, index: int) -> None:
        self.out += b"h" + bytes((index,)) if index < 256 else b"j" + index.to_bytes(4, "little")

    def put(self, node: Value) -> None:
        self.memo[id(node)] = self.put_new()

    def put_new(self) -> int:
        index = self.count
        self.count += 1
        self.out += b"q" + bytes((index,)) if index < 256 else b"r" + index.to_bytes(4, "little")
        return index

    # --- what fits ----------------------------------------------------------------------------------------------------

    def why_unfit(self, value: Value) -> str:
        """Return why a value cannot be written, itself and not its parts; empty where it can."""
        if isinstance(value, Tensor):
            return self.why_unfit_tensor(value)
        if isinstance(value, SparseTensor):
            names = _SPARSE_PARTS.get(value.layout, _NESTED_PARTS)
            if set(value.parts) != set(names):
                return f"a tensor of layout {value.layout} is not on the list that torch opens without running code"
            if value.layout == "nested" and self.stream:
                return "a nested tensor needs its sizes before the old stream brings them; torch cannot read it back"
            return next(filter(None, (self.why_unfit_tensor(part) for part in value.parts.values())), "")
        if isinstance(value, StorageRef):
            return _no_bytes(value.storage)
        if isinstance(value, Global):
            if value.module == "torch" and (value.name in DTYPES or value.name in _TORCH_NAMES):
                return ""
            return f"{value.path} is code, not a value"
        if isinstance(value, Record):
            function = value.function
            if not isinstance(function, Global):
                return "the result of a call"
            plain = value.state is None and not value.items and not value.elements and value.kwargs is None
            if plain and function.path in _PLAIN_CALLS and isinstance(value.args, tuple):
                return ""
            return f"an object of {function.path}, whose code would have to run"
        return ""

    def why_unfit_tensor(self, value: Tensor) -> str:
        if value.storage.device == "meta":
            return ""
        if value.quantizer is not None and not self.is_typed(value.storage):
            return "it is quantized and shares its bytes with tensors of another type"
        reason = _no_bytes(value.storage)
        cls = _class_of(value)
        return f"a {cls} wraps other tensors and has no bytes of its own" if reason and cls else reason


def _types_of_storages(tree: Value) -> dict[int, tuple[Storage, set[str]]]:
    """Return, by id of the storage, the types of the tensors that look into it."""
    found: dict[int, tuple[Storage, set[str]]] = {}
    for node in distinct_nodes(tree):
        if isinstance(node, (Tensor, StorageRef)):
            found.setdefault(id(node.storage), (node.storage, set()))[1].add(node.dtype)
    return found


def _no_bytes(storage: Storage) -> str:
    if storage.data is None and storage.size_bytes:
        return f"its storage {storage.id} has no bytes in the file"
    return ""


def _class_of(value: Tensor) -> str:
    """Return the class of a tensor subclass; empty for tensors and parameters."""
    if value.attributes is not None:
        for key, child in value.attributes.pairs:
            if key == "__class__":
                path = child.path if isinstance(child, Global) else str(child)
                return "" if path in {"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"} else path
    return ""


def _is_ours(name: str) -> bool:
    """Whether an attribute is a note of the reader (``__class__``), or hooks, which are code."""
    return name.startswith("__") or name == "_backward_hooks"


def _is_plain_key(key: Value) -> bool:
    if isinstance(key, tuple):
        return all(_is_plain_key(part) for part in key)
    if isinstance(key, Global):
        return key.module == "torch" and key.name in DTYPES
    return key is None or isinstance(key, (str, int, float, complex, bytes))


def _key_text(key: Value) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    if isinstance(key, (bool, int, float)) or key is None:
        return str(key)
    return str(key) if _is_plain_key(key) else type(key).__name__


def _int_ops(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes((value,))
    if 0 <= value < 65536:
        return b"M" + value.to_bytes(2, "little")
    if -(2**31) <= value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return b"\x8a" + bytes((len(data),)) + data
    # Beyond 2,040 bits only the full unpickler follows.
    return b"\x8b" + len(data).to_bytes(4, "little", signed=True) + data
