"""What the names in ordinary checkpoints mean: functions from call arguments to tree nodes, as one table.

A pickle program says "call `torch._utils._rebuild_tensor_v2` with these arguments". Nothing is called here: a name that
is in the table gets the tree node that the call would amount to, every other name leaves a `Record`. The arguments are
the file's word, so each meaning checks all of them; arguments of another form leave the record too, with a finding.

Law: a meaning never raises for what a file wrote, and its work is bounded: what it copies is paid for from a budget
(`Context.spend`), because a program can ask for the same copy ten million times.

Facts: PyTorch 2.13 `torch/_utils.py`, `torch/_tensor.py` and `torch/nested/_internal/nested_tensor.py` (rebuild
functions), PyTorch 0.3 `torch/tensor.py` and `torch/autograd/variable.py` (states of old tensors), NumPy 2.3
`numpy/_core/src/multiarray/methods.c` (`array_reduce`) and `descriptor.c` (`arraydescr_reduce`), CPython 3.13
`Lib/copyreg.py` and `Modules/_collectionsmodule.c`.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TypeAlias, TypeGuard

from rekindle.finding import Finding, Severity, Where
from rekindle.limits import Limits
from rekindle.source import BufferBytes
from rekindle.tensors import DTYPE_OF_STORAGE, DTYPES, Storage, contiguous_stride, element_count, span_of
from rekindle.tree import Global, Map, Record, SetOf, SparseTensor, StorageRef, Tensor, Value
from rekindle.unpickling.program import TooMuch

__all__ = ["BUILDS", "MEANINGS", "Context", "Odd", "call", "new", "set_tensor_state"]

MAX_INT64 = 2**63 - 1
_MAX_FINDINGS = 100

Meaning: TypeAlias = "Callable[[tuple[Value, ...], Context], Value]"  # None leaves the record as it is
BuildMeaning: TypeAlias = "Callable[[Record, Value, Context], Value]"  # None leaves the record as it is


class Odd(Exception):
    """The arguments do not have the form that this function takes; the text says which one."""


class Context:
    """What one run of a program shares with the meanings: its bounds, its findings, what records turned out to be.

    Attributes:
        limits: the caps.
        offset: of the opcode that is being run.
        findings: in the order found, at most a hundred.
        become: id of a record -> (the record, kept so that its id stays taken, and the node it turned out to be).
        touched: id -> every `Map` and `SetOf` that got entries, for removing repeated keys at the end.
        nested: reads the complete stream inside ``torch.storage._load_from_bytes``, or None.
    """

    __slots__ = ("_bytes_left", "_made", "_work_left", "become", "findings", "limits", "nested", "offset", "touched")

    def __init__(self, limits: Limits, nested: Callable[[bytes], Value] | None) -> None:
        self.limits = limits
        self.offset = 0
        self.findings: list[Finding] = []
        self.become: dict[int, tuple[Record, Value]] = {}
        self.touched: dict[int, Map | SetOf] = {}
        self.nested = nested
        self._work_left = limits.opcodes
        self._bytes_left = limits.pickle_bytes
        self._made = 0

    def spend(self, entries: int) -> None:
        """Pay for copying this many entries.

        Raises:
            TooMuch: the program copied more entries than it may have opcodes.
        """
        self._work_left -= entries
        if self._work_left < 0:
            raise TooMuch(f"it copies more than {self.limits.opcodes:,} entries", "opcodes")

    def spend_bytes(self, size: int) -> None:
        """Pay for copying this many bytes.

        Raises:
            TooMuch: the program copied more bytes than it may have.
        """
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise TooMuch(f"it copies more than {self.limits.pickle_bytes:,} bytes", "pickle_bytes")

    def now(self, value: Value) -> Value:
        """Return what a value turned out to be, itself where nothing is known of it."""
        known = self.become.get(id(value))
        return value if known is None else known[1]

    def fresh_id(self, kind: str) -> str:
        """Return an id for a storage that the container does not know."""
        self._made += 1
        return f"{kind}-{self._made}"

    def filled(self, map: Map) -> Map:
        """Return the map, noted as one whose keys may repeat."""
        self.touched[id(map)] = map
        return map

    def report_odd(self, path: str, text: str) -> None:
        """Add the finding for arguments of another form."""
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(
                Finding(
                    "RK-FILE-08",
                    "odd-arguments",
                    Severity.WARNING,
                    f"{path} would be called with arguments it does not take: {text}",
                    why="another version of the library wrote this file, or it was made up",
                    where=Where(offset=self.offset),
                )
            )


def call(function: Value, args: Value, context: Context) -> Value:
    """Return what calling `function` with `args` amounts to: a tree node, or a `Record` of the call."""
    if type(function) is Global:
        meaning = MEANINGS.get((function.module, function.name))
        if meaning is not None:
            try:
                if type(args) is not tuple:
                    raise Odd("they are not a tuple")  # noqa: TRY301 - handled where all are
                value = meaning(args, context)
            except Odd as odd:
                context.report_odd(function.path, str(odd))
            else:
                if value is not None:
                    return value
    return Record(function, args, None, context.offset)


# ---- checks of arguments


def _count(args: tuple[Value, ...], *counts: int) -> None:
    if len(args) not in counts:
        raise Odd(f"{len(args)} of them")


def _is_size(value: Value) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_INT64


def _sizes(value: Value, context: Context, what: str) -> tuple[int, ...]:
    if type(value) is list:
        context.spend(len(value))
        value = tuple(value)
    if type(value) is not tuple:
        raise Odd(f"the {what} is not a tuple")
    if len(value) > context.limits.tensor_dims:
        raise Odd(f"the {what} has {len(value):,} dimensions")
    for size in value:
        if type(size) is not int or not 0 <= size <= MAX_INT64:
            raise Odd(f"the {what} is not made of sizes")
    return value  # type: ignore[return-value]  # every element was just seen to be an int


def _flag(value: Value, what: str) -> bool:
    if type(value) is not bool:
        raise Odd(f"{what} is not a bool")
    return value


def _dtype_name(value: Value) -> str:
    if type(value) is Global and value.module == "torch" and value.name in DTYPES:
        return value.name
    raise Odd("the dtype is not one of torch's")


def _text(value: Value) -> str | None:
    """Return a text; torch.device records count, as device:index."""
    if isinstance(value, str):
        return value
    if isinstance(value, Record) and isinstance(value.function, Global) and value.function.path == "torch.device":
        args = value.args
        if isinstance(args, tuple) and args and isinstance(args[0], str):
            return f"{args[0]}:{args[1]}" if len(args) > 1 and _is_size(args[1]) else args[0]
    return None


def _tensor(value: Value, context: Context, what: str) -> Tensor:
    value = context.now(value)
    if type(value) is not Tensor:
        raise Odd(f"{what} is not a tensor")
    return value


def _copied(tensor: Tensor) -> Tensor:
    """Return another tensor node over the same storage: one name may be a parameter while its data is none."""
    copy = Tensor(tensor.storage, tensor.dtype, tensor.offset, tensor.shape, tensor.stride, tensor.requires_grad)
    copy.parameter = tensor.parameter
    copy.conj = tensor.conj
    copy.neg = tensor.neg
    copy.quantizer = tensor.quantizer
    copy.attributes = tensor.attributes
    return copy


def _add_attributes(tensor: Tensor, pairs: list[tuple[Value, Value]], context: Context) -> None:
    if pairs:
        old = tensor.attributes.pairs if tensor.attributes is not None else []
        context.spend(len(old) + len(pairs))
        tensor.attributes = context.filled(Map([*old, *pairs]))


def _add_hooks(tensor: Tensor, hooks: Value, context: Context) -> None:
    if hooks is None or (type(hooks) is Map and not hooks.pairs):
        return
    _add_attributes(tensor, [("_backward_hooks", hooks)], context)


def _state_pairs(state: Value) -> list[tuple[Value, Value]] | None:
    """Return the attributes that a state sets: a dict, a pair of dict and slots, or nothing; None for another form."""
    if state is None:
        return []
    if type(state) is Map:
        return state.pairs
    if type(state) is tuple and len(state) == 2:
        pairs: list[tuple[Value, Value]] = []
        for part in state:
            if type(part) is Map:
                pairs.extend(part.pairs)
            elif part is not None:
                return None
        return pairs
    return None


# ---- torch: strided tensors


def _strided(ref: Value, offset: Value, size: Value, stride: Value, context: Context) -> Tensor | None:
    if type(ref) is not StorageRef:
        if type(ref) is Record and type(ref.function) is Global and ref.function.name == "_load_from_bytes":
            return None  # a stream inside the pickle: the format reads it
        raise Odd("the storage is not a storage")
    if type(size) is not tuple:
        size = _sizes(size, context, "shape")
    if type(stride) is not tuple:
        stride = _sizes(stride, context, "stride")
    # The only check that is written out: it runs for every tensor of a file.
    if len(size) != len(stride) or len(size) > context.limits.tensor_dims:
        raise Odd(f"{len(size):,} sizes and {len(stride):,} strides")
    for number in size:
        if type(number) is not int or not 0 <= number <= 0x7FFFFFFFFFFFFFFF:
            raise Odd("the shape is not made of sizes")
    for number in stride:
        if type(number) is not int or not 0 <= number <= 0x7FFFFFFFFFFFFFFF:
            raise Odd("the stride is not made of sizes")
    if type(offset) is not int or not 0 <= offset <= 0x7FFFFFFFFFFFFFFF:
        raise Odd("the offset is not a size")
    return Tensor(ref.storage, ref.dtype, ref.offset + offset, size, stride)  # type: ignore[arg-type]  # all ints


def _rebuild_tensor(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 4)
    return _strided(args[0], args[1], args[2], args[3], context)


def _rebuild_tensor_v2(args: tuple[Value, ...], context: Context) -> Value:
    count = len(args)
    if count != 6 and count != 7:  # noqa: PLR1714 - runs for every tensor of a file
        raise Odd(f"{count} of them")
    tensor = _strided(args[0], args[1], args[2], args[3], context)
    if tensor is None:
        return None
    requires_grad = args[4]
    if requires_grad is not False:
        tensor.requires_grad = _flag(requires_grad, "requires_grad")
    hooks = args[5]
    if type(hooks) is not Map or hooks.pairs:
        _add_hooks(tensor, hooks, context)
    if count == 7:
        _set_metadata(tensor, args[6], context)
    return tensor


def _rebuild_tensor_v3(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 7, 8)
    dtype = _dtype_name(args[6])
    tensor = _strided(args[0], args[1], args[2], args[3], context)
    ref = args[0]
    if tensor is None or type(ref) is not StorageRef:
        return None
    skipped = ref.offset * DTYPES[ref.dtype].itemsize
    if skipped % DTYPES[dtype].itemsize:
        raise Odd("the storage starts inside an element")
    tensor.offset = skipped // DTYPES[dtype].itemsize + (tensor.offset - ref.offset)
    tensor.dtype = dtype
    tensor.requires_grad = _flag(args[4], "requires_grad")
    _add_hooks(tensor, args[5], context)
    if len(args) == 8:
        _set_metadata(tensor, args[7], context)
    return tensor


def _set_metadata(tensor: Tensor, metadata: Value, context: Context) -> None:
    if metadata is None:
        return
    if type(metadata) is not Map:
        raise Odd("the metadata is not a dict")
    rest: list[tuple[Value, Value]] = []
    context.spend(len(metadata.pairs))
    for key, value in metadata.pairs:
        if key == "conj":
            tensor.conj = _flag(value, "conj")
        elif key == "neg":
            tensor.neg = _flag(value, "neg")
        else:
            rest.append((key, value))
    _add_attributes(tensor, rest, context)


def _rebuild_qtensor(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 7)
    tensor = _strided(args[0], args[1], args[2], args[3], context)
    if tensor is None:
        return None
    quantizer = args[4]
    if type(quantizer) is not tuple or not quantizer or type(quantizer[0]) is not Global:
        raise Odd("the quantizer is not a tuple that starts with its scheme")
    scheme = quantizer[0].name
    if scheme == "per_tensor_affine" and len(quantizer) == 3:
        tensor.quantizer = (scheme, *quantizer[1:])
    elif scheme in {"per_channel_affine", "per_channel_affine_float_qparams"} and len(quantizer) == 4:
        scales = _tensor(quantizer[1], context, "the scales")
        zero_points = _tensor(quantizer[2], context, "the zero points")
        tensor.quantizer = (scheme, scales, zero_points, quantizer[3])
    else:
        raise Odd(f"the quantizer {scheme[:64]!r} with {len(quantizer)} parts")
    tensor.requires_grad = _flag(args[5], "requires_grad")
    _add_hooks(tensor, args[6], context)
    return tensor


def _without_bytes(dtype: str, size: Value, stride: Value, offset: Value, device: str, context: Context) -> Tensor:
    shape = _sizes(size, context, "shape")
    steps = _sizes(stride, context, "stride")
    if len(shape) != len(steps) or not _is_size(offset):
        raise Odd(f"{len(shape):,} sizes and {len(steps):,} strides")
    reach = span_of(shape, steps)
    declared = (offset + reach) * DTYPES[dtype].itemsize if reach else 0
    return Tensor(Storage(context.fresh_id("meta"), declared, None, device), dtype, offset, shape, steps)


def _rebuild_meta_tensor(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 4)
    tensor = _without_bytes(_dtype_name(args[0]), args[1], args[2], 0, "meta", context)
    tensor.requires_grad = _flag(args[3], "requires_grad")
    return tensor


def _rebuild_wrapper_subclass(args: tuple[Value, ...], context: Context) -> Value:
    """Give the outside of a wrapper (DTensor): no bytes of its own; its inner tensors come as attributes."""
    _count(args, 8)
    device = _text(args[6])
    if device is None:
        raise Odd("the device is not a text")
    tensor = _without_bytes(_dtype_name(args[1]), args[2], args[3], args[4], device, context)
    tensor.requires_grad = _flag(args[7], "requires_grad")
    _add_attributes(tensor, [("__class__", args[0])], context)
    return tensor


def _rebuild_on_device(args: tuple[Value, ...], context: Context) -> Value:
    """Give a tensor that was moved to the CPU, or to NumPy, to be saved: `device` says where it came from."""
    _count(args, 4)
    data = _tensor(args[0], context, "the data")
    device = _text(args[2])
    if device is None:
        raise Odd("the device is not a text")
    dtype = _dtype_name(args[1])
    tensor = _copied(data)
    tensor.storage = Storage(
        context.fresh_id("device"), data.storage.size_bytes, data.storage.data, device, data.storage.byteorder
    )
    tensor.requires_grad = _flag(args[3], "requires_grad")
    tensor.attributes = None
    if dtype != data.dtype:  # NumPy has no bfloat16: the bytes are of another type than the tensor was
        _add_attributes(tensor, [("dtype", args[1])], context)
    return tensor


def _rebuild_parameter(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 3, 4)
    requires_grad = _flag(args[1], "requires_grad")
    data = context.now(args[0])
    if type(data) is SparseTensor:
        return _parameter_of_parts(data, requires_grad)
    if type(data) is Record:
        return None  # of a class that is not known; the record shows it
    parameter = _copied(_tensor(data, context, "the data"))
    parameter.parameter = True
    parameter.requires_grad = requires_grad
    _add_hooks(parameter, args[2], context)
    if len(args) == 4:
        pairs = _state_pairs(args[3])
        if pairs is None:
            raise Odd("the state is not a dict")
        _add_attributes(parameter, pairs, context)
    return parameter


def _parameter_of_parts(data: SparseTensor, requires_grad: bool) -> Value:
    parts = dict(data.parts)
    if "values" in parts:
        values = parts["values"] = _copied(parts["values"])
        values.parameter = True
        values.requires_grad = requires_grad
    return SparseTensor(data.layout, data.shape, parts, data.is_coalesced)


def _rebuild_from_type(args: tuple[Value, ...], context: Context) -> Value:
    """Give a tensor of a subclass, or a plain one that carries attributes."""
    _count(args, 4)
    function, kind, inner_args, state = args
    if type(function) is not Global or type(inner_args) is not tuple:
        raise Odd("no function with its arguments")
    meaning = _BASES.get((function.module, function.name))
    if meaning is None:
        return None
    base = meaning(inner_args, context)
    if type(base) is SparseTensor:
        return base
    if type(base) is not Tensor:
        return None
    pairs = _state_pairs(state)
    if pairs is None:
        pairs = [("__state__", state)]
    if type(kind) is Global and kind.path in _PARAMETERS:
        base.parameter = True
    elif type(kind) is not Global or kind.path not in _PLAIN_TENSORS:
        known = base.attributes.pairs if base.attributes is not None else []
        if not known or known[0][0] != "__class__":
            pairs = [("__class__", kind), *pairs]
    _add_attributes(base, pairs, context)
    return base


_PLAIN_TENSORS = frozenset(("torch.Tensor", "torch._tensor.Tensor", "torch.tensor.Tensor"))
_PARAMETERS = frozenset(("torch.nn.parameter.Parameter",))


# ---- torch: tensors made of tensors

_COMPRESSED = {
    "sparse_csr": ("crow_indices", "col_indices"),
    "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"),
    "sparse_bsc": ("ccol_indices", "row_indices"),
}


def _rebuild_sparse_tensor(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 2)
    layout, data = args
    if type(layout) is not Global or layout.module != "torch" or type(data) is not tuple:
        raise Odd("no layout with its data")
    if layout.name == "sparse_coo":
        _count(data, 3, 4)
        parts = {
            "indices": _tensor(data[0], context, "indices"),
            "values": _tensor(data[1], context, "values"),
        }
        coalesced = data[3] if len(data) == 4 else None
        if coalesced is not None:
            coalesced = _flag(coalesced, "is_coalesced")
        return SparseTensor("sparse_coo", _sizes(data[2], context, "shape"), parts, coalesced)
    if layout.name not in _COMPRESSED:
        raise Odd("the layout is not a sparse one")
    _count(data, 4)
    names = (*_COMPRESSED[layout.name], "values")
    parts = {name: _tensor(part, context, name) for name, part in zip(names, data[:3], strict=True)}
    return SparseTensor(layout.name, _sizes(data[3], context, "shape"), parts)


def _rebuild_nested_tensor(args: tuple[Value, ...], context: Context) -> Value:
    """Give a strided nested tensor; its ragged dimensions are -1 in the shape."""
    _count(args, 4)
    names = ("buffer", "sizes", "strides", "storage_offsets")
    parts = {name: _tensor(part, context, name) for name, part in zip(names, args, strict=True)}
    sizes = parts["sizes"].shape
    if len(sizes) > 2 or (len(sizes) == 2 and sizes[1] > context.limits.tensor_dims):
        raise Odd("the sizes are not a matrix")
    shape = (sizes[0], *(-1,) * sizes[1]) if len(sizes) == 2 else (0,)
    return SparseTensor("nested", shape, parts)


def _rebuild_njt(args: tuple[Value, ...], context: Context) -> Value:
    """Give a jagged tensor; its ragged dimension is -1 in the shape."""
    _count(args, 1)
    if type(args[0]) is not Map:
        raise Odd("the constructor arguments are not a dict")
    context.spend(len(args[0].pairs))
    given = {key: value for key, value in args[0].pairs if type(key) is str}
    parts = {name: _tensor(given.get(name), context, name) for name in ("values", "offsets")}
    if given.get("lengths") is not None:
        parts["lengths"] = _tensor(given["lengths"], context, "lengths")
    inner = parts["values"].shape
    ragged = given.get("_ragged_idx", 1)
    if not _is_size(ragged) or not 1 <= ragged <= len(inner) or len(parts["offsets"].shape) != 1:
        raise Odd("the ragged dimension is none of its dimensions")
    batch = max(parts["offsets"].shape[0] - 1, 0)
    shape = (batch, *inner[: ragged - 1], -1, *inner[ragged:])
    return SparseTensor("jagged", shape, parts)


# ---- torch: small things


def _get_layout(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 1)
    text = args[0]
    if type(text) is not str or not text.startswith("torch."):
        raise Odd("the name is not torch's")
    return Global("torch", text[6:], context.offset)


def _size(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 0, 1)
    return _sizes(args[0], context, "shape") if args else ()


def _load_from_bytes(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 1)
    if not isinstance(args[0], bytes):
        raise Odd("the stream is not bytes")
    return None if context.nested is None else context.nested(args[0])


def _variable(args: tuple[Value, ...], context: Context) -> Value:
    """Give the Variable or Parameter of PyTorch up to 0.3 around its data; None while it is still empty."""
    if not args:
        return None
    return _copied(_tensor(args[0], context, "the data"))


def _parameter_class(args: tuple[Value, ...], context: Context) -> Value:
    variable = _variable(args, context)
    if type(variable) is Tensor:
        variable.parameter = True
        variable.requires_grad = True
        if len(args) > 1:
            variable.requires_grad = _flag(args[1], "requires_grad")
    return variable


def _build_old_tensor(record: Record, state: Value, context: Context) -> Value:  # noqa: ARG001 - one signature for all
    """Give the tensor of PyTorch up to 0.4: the class is called without arguments, its state is the tensor."""
    if type(state) is not tuple:
        raise Odd("the state is not a tuple")
    if len(state) == 4:
        return _strided(state[0], state[1], state[2], state[3], context)
    if len(state) == 5:
        tensor = _copied(_tensor(state[0], context, "the data"))
        tensor.requires_grad = _flag(state[3], "requires_grad")
        _add_hooks(tensor, state[2], context)
        return tensor
    if len(state) == 3:
        parts = {"indices": _tensor(state[0], context, "indices"), "values": _tensor(state[1], context, "values")}
        return SparseTensor("sparse_coo", _sizes(state[2], context, "shape"), parts)
    raise Odd(f"a state of {len(state)} parts")


def set_tensor_state(tensor: Tensor, state: Value, context: Context) -> None:
    """Apply a BUILD to a tensor: attributes, or the state of a Variable or tensor of PyTorch up to 0.4.

    Raises:
        Odd: the state has another form.
    """
    pairs = _state_pairs(state)
    if pairs is not None:
        _add_attributes(tensor, pairs, context)
        return
    if type(state) is not tuple or len(state) not in {3, 4, 5}:
        raise Odd("the state is neither a dict nor a tuple of a tensor's parts")
    if len(state) == 3:  # requires_grad, volatile, hooks
        tensor.requires_grad = _flag(state[0], "requires_grad")
        _add_hooks(tensor, state[2], context)
        return
    whole = _build_old_tensor(_NO_RECORD, state, context)
    if type(whole) is not Tensor:
        raise Odd("the data is not a tensor")
    for name in ("storage", "dtype", "offset", "shape", "stride"):
        setattr(tensor, name, getattr(whole, name))  # names of ours, none of the file's
    if len(state) == 5:
        tensor.requires_grad = whole.requires_grad
        _add_hooks(tensor, state[2], context)


_NO_RECORD = Record(None, ())


# ---- collections and builtins


def _pairs_of(value: Value, context: Context) -> list[tuple[Value, Value]]:
    """Return the entries of a dict, or of a list of pairs, as a new list."""
    if type(value) is Map:
        context.spend(len(value.pairs))
        return list(value.pairs)
    if not isinstance(value, (list, tuple)):
        raise Odd("the entries are neither a dict nor pairs")
    context.spend(len(value))
    pairs: list[tuple[Value, Value]] = []
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise Odd("the entries are neither a dict nor pairs")
        pairs.append((pair[0], pair[1]))
    return pairs


def _ordered_dict(args: tuple[Value, ...], context: Context) -> Value:
    if not args:
        return Map(None, "OrderedDict")
    _count(args, 1)
    return context.filled(Map(_pairs_of(args[0], context), "OrderedDict"))


def _dict(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 0, 1)
    return context.filled(Map(_pairs_of(args[0], context))) if args else Map()


def _counter(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 0, 1)
    return context.filled(Map(_pairs_of(args[0], context) if args else [], "Counter"))


def _defaultdict(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 0, 1, 2)
    factory = args[0] if args else None
    pairs = _pairs_of(args[1], context) if len(args) == 2 else []
    attributes = None if factory is None else Map([("default_factory", factory)])
    return context.filled(Map(pairs, "defaultdict", attributes))


def _items_of(args: tuple[Value, ...], context: Context) -> list[Value]:
    """Return the members that a collection is made from, as a new list."""
    _count(args, 0, 1)
    if not args:
        return []
    source = args[0].items if type(args[0]) is SetOf else args[0]
    if not isinstance(source, (list, tuple)):
        raise Odd("the members are not a list")
    context.spend(len(source))
    return list(source)


def _set(args: tuple[Value, ...], context: Context) -> Value:
    made = SetOf(_items_of(args, context))
    context.touched[id(made)] = made
    return made


def _frozenset(args: tuple[Value, ...], context: Context) -> Value:
    made = SetOf(_items_of(args, context), frozen=True)
    context.touched[id(made)] = made
    return made


def _list(args: tuple[Value, ...], context: Context) -> Value:
    return _items_of(args, context)


def _tuple(args: tuple[Value, ...], context: Context) -> Value:
    return tuple(_items_of(args, context))


def _complex(args: tuple[Value, ...], context: Context) -> Value:  # noqa: ARG001 - one signature for all
    _count(args, 1, 2)
    parts = [float(part) for part in args if type(part) is float or (type(part) is int and abs(part) < 2**53)]
    if len(parts) != len(args):
        raise Odd("the parts are not numbers")
    return complex(*parts)


_LATIN1 = frozenset(("latin1", "latin-1", "iso-8859-1"))


def _encoded(text: str, encoding: Value, context: Context) -> bytes:
    if encoding not in _LATIN1:
        raise Odd("the encoding is not latin-1, which pickle uses")
    context.spend_bytes(len(text))
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise Odd("the text is not latin-1") from None


def _codecs_encode(args: tuple[Value, ...], context: Context) -> Value:
    """Give the bytes that protocols 0 to 2 write as a text in latin-1."""
    _count(args, 2)
    if type(args[0]) is not str or type(args[1]) is not str:
        raise Odd("no text with its encoding")
    return _encoded(args[0], args[1], context)


def _bytes(args: tuple[Value, ...], context: Context) -> Value:
    """Give bytes or a bytearray, which the tree does not tell apart."""
    _count(args, 0, 1, 2)
    if not args:
        return b""
    if len(args) == 2:
        if type(args[0]) is not str or type(args[1]) is not str:
            raise Odd("no text with its encoding")
        return _encoded(args[0], args[1], context)
    source = args[0]
    if isinstance(source, bytes):
        return source
    if not isinstance(source, (list, tuple)):
        raise Odd("the bytes are not bytes")
    context.spend(len(source))
    if not all(type(byte) is int and 0 <= byte <= 255 for byte in source):
        raise Odd("the bytes are not numbers below 256")
    return bytes(source)  # type: ignore[arg-type]  # every element was just seen to be an int


# ---- copyreg


def new(function: Value, args: Value, context: Context) -> Value:
    """Give `function.__new__(*args)`: known where a call without arguments amounts to the same."""
    if args == () and type(function) is Global and (function.module, function.name) in _CREATED_EMPTY:
        return call(function, args, context)
    return Record(function, args, None, context.offset)


def _reconstructor(args: tuple[Value, ...], context: Context) -> Value:
    """Give a new object of a class, protocols 0 and 1; a base other than `object` brings the base's value."""
    _count(args, 3)
    kind, base, state = args
    plain = type(base) is Global and base.name == "object"
    return Record(kind, () if plain and state is None else (base, state), None, context.offset)


def _newobj(args: tuple[Value, ...], context: Context) -> Value:
    if not args:
        raise Odd("no class")
    return Record(args[0], args[1:], None, context.offset)


def _newobj_ex(args: tuple[Value, ...], context: Context) -> Value:
    _count(args, 3)
    return Record(args[0], args[1], args[2], context.offset)


# ---- numpy

_NUMPY_DTYPES = {
    "f2": "float16", "f4": "float32", "f8": "float64", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64", "b1": "bool", "c8": "complex64",
    "c16": "complex128",
}  # fmt: skip
_SCALARS = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "b1": "?", "c8": "ff", "c16": "dd",
}  # fmt: skip


def _raw_text(value: Value) -> str | None:
    if isinstance(value, bytes) and len(value) < 16:
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


def _raw_bytes(value: Value, context: Context) -> bytes | None:
    """Return bytes, also those of a Python 2 string that happened to be text."""
    if isinstance(value, str):
        context.spend_bytes(len(value) * 4)
        return value.encode("utf-8", "surrogatepass")
    return value if isinstance(value, bytes) else None


def _numpy_dtype(value: Value) -> tuple[str, str] | None:
    """Return (NumPy's name such as ``f4``, ``little`` or ``big``) for a plain dtype; None for any other."""
    if type(value) is not Record or type(value.function) is not Global or value.function.path != "numpy.dtype":
        return None
    name = _raw_text(value.args[0]) if isinstance(value.args, tuple) and value.args else None
    if name is None:
        return None
    order = ""
    if name[:1] in {"<", ">", "|", "="}:
        order, name = name[0], name[1:]
    state = value.state
    if isinstance(state, tuple) and len(state) > 1:
        order = _raw_text(state[1]) or order
        if any(part is not None for part in state[2:5]):  # subarrays and records
            return None
    if name not in _NUMPY_DTYPES:
        return None
    return name, "big" if order == ">" else "little"


def _array(kind: Value, dtype: Value, shape: Value, raw: bytes, fortran: bool, context: Context) -> Value:
    known = _numpy_dtype(dtype)
    if known is None:
        return None
    name, byteorder = known
    sizes = _sizes(shape, context, "shape")
    torch_name = _NUMPY_DTYPES[name]
    if element_count(sizes) * DTYPES[torch_name].itemsize != len(raw):
        raise Odd(f"{len(raw):,} bytes for an array of another size")
    stride = contiguous_stride(sizes[::-1])[::-1] if fortran else contiguous_stride(sizes)
    storage = Storage(context.fresh_id("numpy"), len(raw), BufferBytes(memoryview(raw)), "cpu", byteorder)
    tensor = Tensor(storage, torch_name, 0, sizes, stride)
    tensor.attributes = Map([("__class__", kind)])
    return tensor


def _build_array(record: Record, state: Value, context: Context) -> Value:
    """Give a NumPy array; one whose elements torch has no type for stays a record."""
    if type(state) is not tuple or len(state) not in {4, 5}:
        raise Odd("the state is not that of an array")
    shape, dtype, fortran, content = state[-4:]
    if type(content) is list:  # an array of objects
        return None
    raw = _raw_bytes(content, context)
    if raw is None:
        raise Odd("the content is not bytes")
    args = record.args
    kind = args[0] if isinstance(args, tuple) and args else None
    if type(kind) is not Global:
        raise Odd("the class is not a class")
    return _array(kind, dtype, shape, raw, fortran is True or fortran == 1, context)


def _frombuffer(args: tuple[Value, ...], context: Context) -> Value:
    """Give a NumPy array of protocol 5 whose bytes are in the program."""
    _count(args, 4)
    content, dtype, shape, order = args
    if not isinstance(content, bytes):
        return None  # out of band: the bytes are elsewhere
    if type(order) is not str or order not in {"C", "F"}:
        raise Odd("the order is neither C nor F")
    return _array(Global("numpy", "ndarray", context.offset), dtype, shape, content, order == "F", context)


def _scalar(args: tuple[Value, ...], context: Context) -> Value:
    """Give the number of a NumPy scalar where Python has it exactly."""
    _count(args, 1, 2)
    known = _numpy_dtype(args[0])
    if known is None or len(args) == 1:
        return None
    raw = _raw_bytes(args[1], context)
    if raw is None:
        raise Odd("the content is not bytes")
    layout = Struct((">" if known[1] == "big" else "<") + _SCALARS[known[0]])
    if layout.size != len(raw):
        raise Odd(f"{len(raw):,} bytes for one {known[0]}")
    parts = layout.unpack(raw)
    number: Value = complex(*parts) if len(parts) == 2 else parts[0]
    return number


# ---- the tables

_TENSORS_BY_CLASS = tuple(
    (module, storage.removesuffix("Storage") + "Tensor")
    for storage in DTYPE_OF_STORAGE
    for module in ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse")
)

# What `_rebuild_from_type` may wrap; not itself, so that a file cannot make it recurse.
_BASES: dict[tuple[str, str], Meaning] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_sparse_tensor"): _rebuild_sparse_tensor,
    ("torch._utils", "_rebuild_nested_tensor"): _rebuild_nested_tensor,
    ("torch.nested._internal.nested_tensor", "_rebuild_njt"): _rebuild_njt,
    ("torch._utils", "_rebuild_qtensor"): _rebuild_qtensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _rebuild_meta_tensor,
    ("torch._utils", "_rebuild_wrapper_subclass"): _rebuild_wrapper_subclass,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _rebuild_on_device,
    ("torch._utils", "_rebuild_xla_tensor"): _rebuild_on_device,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _rebuild_on_device,
}

MEANINGS: dict[tuple[str, str], Meaning] = {
    **_BASES,
    ("torch._tensor", "_rebuild_from_type"): _rebuild_from_type,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.tensor", "_rebuild_from_type"): _rebuild_from_type,
    ("torch.tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
    ("torch.serialization", "_get_layout"): _get_layout,
    ("torch", "Size"): _size,
    ("torch.autograd.variable", "Variable"): _variable,
    ("torch.nn.parameter", "Parameter"): _parameter_class,
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "defaultdict"): _defaultdict,
    ("collections", "Counter"): _counter,
    ("_codecs", "encode"): _codecs_encode,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("copyreg", "__newobj__"): _newobj,
    ("copy_reg", "__newobj__"): _newobj,
    ("copyreg", "__newobj_ex__"): _newobj_ex,
    **{
        (module, name): meaning
        for module in ("builtins", "__builtin__")
        for name, meaning in (
            ("set", _set), ("frozenset", _frozenset), ("list", _list), ("tuple", _tuple), ("dict", _dict),
            ("bytes", _bytes), ("bytearray", _bytes), ("complex", _complex),
        )
    },
    **{
        (module, "scalar"): _scalar
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
    **{
        (module, "_frombuffer"): _frombuffer
        for module in ("numpy.core.numeric", "numpy._core.numeric")
    },
}  # fmt: skip

# `object.__new__` of these is the empty collection, whatever comes later by SETITEMS, ADDITEMS or APPENDS.
_CREATED_EMPTY = frozenset(
    (module, name)
    for module, name in MEANINGS
    if name in {"OrderedDict", "defaultdict", "Counter", "set", "frozenset", "list", "tuple", "dict", "bytes"}
)

BUILDS: dict[tuple[str, str], BuildMeaning] = {
    **dict.fromkeys(_TENSORS_BY_CLASS, _build_old_tensor),
    ("torch.autograd.variable", "Variable"): _build_old_tensor,
    ("numpy.core.multiarray", "_reconstruct"): _build_array,
    ("numpy._core.multiarray", "_reconstruct"): _build_array,
}
