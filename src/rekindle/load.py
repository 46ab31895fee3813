"""Any file to torch objects, without running a byte of it and, where that is safe, without copying its tensors.

`load` reads what `rekindle inspect` reads (both torch containers, safetensors, whole modules, bare pickles, runs and
snapshots) and builds the object that was saved: the same nesting and kinds of dict, the same sharing of storages,
parameters as parameters. What cannot be built without code that the file names stays an inert `rekindle.tree.Record`.

A mapped file (copy on write) opens in milliseconds whatever its size, pages come in when they are used, tensors may be
changed, and the file never is. But a mapped file must not be cut short under its tensors, and `torch.save` to the path
they came from does just that: it empties the file first, and then dies reading it, with the only copy gone. So files
that `torch.save` writes are read into memory unless mapping is asked for; safetensors, whose writers replace files, are
mapped.

Law: this is the strict edge. A file that is damaged anywhere raises the error that its worst finding makes; there is
no half-loaded result.
"""

from __future__ import annotations

import mmap as mmap_module
import os
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import torch

from rekindle.errors import ConfigError, UnreadableFile
from rekindle.formats import open_path
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.listing import state_dict_of
from rekindle.source import ByteRange, Bytes, Source
from rekindle.strict import refuse_damaged
from rekindle.tensors import DTYPES, Storage, span_of
from rekindle.tree import Global, Map, Module, Record, SetOf, SparseTensor, StorageRef, Tensor, Value

__all__ = ["MapLocation", "build", "load"]

MapLocation: TypeAlias = (
    "str | torch.device | Mapping[str, str | torch.device] | Callable[[torch.UntypedStorage, str], Any] | None"
)

# Formats whose files are replaced when they are written again, never cut short in place.
_REPLACED_BY_WRITERS = frozenset({"safetensors", "hub-shards", "snapshot", "run"})


def load(
    path: str | os.PathLike[str],
    *,
    map_location: MapLocation = "cpu",
    mmap: bool | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Any:
    """Return the object in a file, as it was saved.

    Args:
        path: a file or folder of any format that rekindle reads.
        map_location: where tensors go: a device (``"cpu"`` unless said otherwise, wherever they were saved;
            ``"meta"`` for shapes without values), a mapping from saved to wanted devices, a function (storage, saved
            location) -> storage as `torch.load` takes it, or None for the devices they were saved on.
        mmap: map the file instead of reading it; None maps safetensors and reads the others. Mapped tensors need the
            file to stay as it is: it may be replaced (`rk.save` does that) or deleted, but a program that cuts it
            short in place (`torch.save` to the same path) ends this process and loses the file.
        limits: what reading may cost.

    Returns:
        Tensors, `nn.Parameter`, dict, OrderedDict (with ``_metadata``), Counter, defaultdict, list, tuple, set and
        plain values. A whole module comes as its state dict, a NumPy array as a tensor, a `torch.Size` as a tuple, a
        subclass of dict as a dict, a tensor of a subclass as a plain tensor, and an object of any other class, or a
        function, as the inert `rekindle.tree.Record` or `Global` that names it. Run and snapshot folders give what
        ``rekindle inspect`` lists.

    Raises:
        NotAModel: it is another kind of file; the text says which.
        UnreadableFile: it is damaged; the text says where.
        ConfigError: `map_location` names a device that this machine does not have.
        OSError: it is missing or may not be read.

    Example:
        >>> import rekindle as rk, torch
        >>> _ = rk.save({"w": torch.ones(2)}, "ones.pth")  # doctest: +SKIP
        >>> rk.load("ones.pth")["w"]  # doctest: +SKIP
        tensor([1., 1.])
    """
    with open_path(path, limits) as opened:
        refuse_damaged(opened)
        if mmap is None:
            mmap = opened.format in _REPLACED_BY_WRITERS
        return build(opened.tree, map_location=map_location, mmap=mmap)


def build(tree: Value, *, map_location: MapLocation = "cpu", mmap: bool = True) -> Any:
    """Return a tree as torch objects; see `load`. The sources may be closed afterwards.

    Raises:
        UnreadableFile: a tensor reaches beyond its storage, or the storage has no bytes.
        ConfigError: `map_location` names a device that this machine does not have.
    """
    return _Builder(_placement(map_location), mmap).value(tree)


# --- where storages go ------------------------------------------------------------------------------------------------

_Place: TypeAlias = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


def _placement(map_location: MapLocation) -> _Place:
    """Return a function (storage on the CPU, saved location) -> storage where it belongs."""
    if map_location is None:
        return lambda storage, saved: _to_device(storage, saved, f"the file was saved on {saved}")
    if isinstance(map_location, (str, torch.device)):
        wanted = str(map_location)
        if wanted == "cpu":
            return lambda storage, _: storage
        return lambda storage, _: _to_device(storage, wanted, f"map_location={wanted!r}")
    if isinstance(map_location, Mapping):
        table = {str(saved): str(wanted) for saved, wanted in map_location.items()}
        return lambda storage, saved: _to_device(storage, table.get(saved, saved), f"map_location for {saved}")
    chosen: Callable[[torch.UntypedStorage, str], Any] = map_location

    def ask(storage: torch.UntypedStorage, saved: str) -> torch.UntypedStorage:
        answer = chosen(storage, saved)
        if answer is None:
            return _to_device(storage, saved, f"the file was saved on {saved}")
        found = getattr(answer, "_untyped_storage", answer)  # a typed storage holds the untyped one
        if not isinstance(found, torch.UntypedStorage):
            raise TypeError(f"map_location returned {type(answer).__name__}, a storage or None is wanted")
        return found

    return ask


def _to_device(storage: torch.UntypedStorage, name: str, reason: str) -> torch.UntypedStorage:
    if name == "cpu":
        return storage
    try:
        device = torch.device(name)
        moved = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device)
        if device.type != "meta":
            moved.copy_(_bytes_tensor(storage))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"this machine has no device {name}",
            why=f"{reason}; torch says: {str(error).splitlines()[0][:200]}",
            do='rk.load(..., map_location="cpu")',
        ) from None
    return moved.untyped_storage()


def _bytes_tensor(storage: torch.UntypedStorage) -> torch.Tensor:
    tensor = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return tensor.set_(storage)


# --- building ---------------------------------------------------------------------------------------------------------

_LATER = object()
_HUGE_BYTES = 4 * 1024**2
_PLAIN = (bool, int, float, complex, str, bytes)
_QSCHEMES = {"per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams"}
_FACTORIES = {"list": list, "dict": dict, "int": int, "float": float, "set": set, "str": str, "tuple": tuple}


class _Builder:
    """Holds what was already built, by identity of its node, and the maps of the files."""

    def __init__(self, place: _Place, use_map: bool) -> None:
        self.place = place
        self.use_map = use_map
        self.built: dict[int, tuple[Value, Any]] = {}
        self.storages: dict[int, tuple[Storage, torch.UntypedStorage]] = {}
        self.maps: dict[int, tuple[Source, mmap_module.mmap]] = {}

    def value(self, tree: Value) -> Any:
        """Return the object of a tree. Containers are filled from a list of work, so that depth costs no recursion."""
        result: list[Any] = []
        pending: list[Callable[[], None]] = []
        self.schedule(tree, result.append, pending)
        while pending:
            pending.pop()()
        return result[0]

    def schedule(self, node: Value, deliver: Callable[[Any], object], pending: list[Callable[[], None]]) -> None:
        """Build a node, or put its parts on the list of work, and hand the object to `deliver`."""
        found = self.at_once(node)
        if found is not _LATER:
            deliver(found)
        elif isinstance(node, (Map, Module)):
            self.mapping(node, deliver, pending)
        elif isinstance(node, list):
            items: list[Any] = []
            deliver(self.keep(node, items))
            self.fill_list(node, items, pending)
        elif isinstance(node, (tuple, SetOf)):
            self.frozen(node, deliver, pending)

    def at_once(self, node: Value) -> Any:
        """Return the object of a node that has no parts to wait for, `_LATER` for a container."""
        if node is None or isinstance(node, _PLAIN):
            return node
        known = self.built.get(id(node))
        if known is not None:
            return known[1]
        if isinstance(node, (Map, Module, list, tuple, SetOf)):
            return _LATER
        return self.keep(node, self.leaf(node))

    def fill_list(self, nodes: Sequence[Value], items: list[Any], pending: list[Callable[[], None]]) -> None:
        """Append the objects of the nodes; those of containers take their place when they are begun."""
        waiting: list[Callable[[], None]] = []
        for index, node in enumerate(nodes):
            found = self.at_once(node)
            items.append(found)
            if found is _LATER:
                deliver = partial(items.__setitem__, index)
                waiting.append(partial(self.schedule, node, deliver, pending))
        pending.extend(reversed(waiting))

    def frozen(
        self, node: tuple[Value, ...] | SetOf, deliver: Callable[[Any], object], pending: list[Callable[[], None]]
    ) -> None:
        """Build a tuple or set when its parts are there; through a list it may be inside itself."""
        parts: list[Any] = []

        def close() -> None:
            known = self.built.get(id(node))
            if known is None:
                made = tuple(parts) if isinstance(node, tuple) else _as_set(node, parts)
                known = (node, self.keep(node, made))
            deliver(known[1])

        pending.append(close)
        self.fill_list(node if isinstance(node, tuple) else node.items, parts, pending)

    def mapping(self, node: Map | Module, deliver: Callable[[Any], object], pending: list[Callable[[], None]]) -> None:
        source = node if isinstance(node, Map) else state_dict_of(node)
        made = _empty_mapping(source)
        deliver(self.keep(node, made))
        waiting: list[Callable[[], None]] = []
        for key_node, child in source.pairs:
            key = key_node if isinstance(key_node, _PLAIN) else self.value(key_node)
            found = self.at_once(child)
            try:
                made[key] = found
            except TypeError as error:
                raise UnreadableFile("a dict in the file has a key that cannot be one", why=str(error)) from None
            if found is _LATER:
                waiting.append(partial(self.schedule, child, partial(made.__setitem__, key), pending))
        if isinstance(made, OrderedDict) and source.attributes is not None:
            attributes = vars(made)
            for name, child in source.attributes.pairs:
                if isinstance(name, str) and not name.startswith("__"):
                    attributes[name] = None  # in its place
                    waiting.append(partial(self.schedule, child, partial(attributes.__setitem__, name), pending))
        pending.extend(reversed(waiting))

    def keep(self, node: Value, made: Any) -> Any:
        self.built[id(node)] = (node, made)
        return made

    def leaf(self, node: Value) -> Any:
        if isinstance(node, Tensor):
            return self.tensor(node)
        if isinstance(node, SparseTensor):
            return self.tensor_of_parts(node)
        if isinstance(node, StorageRef):
            return self.storage_alone(node)
        if isinstance(node, Global):
            return _torch_name(node)
        if isinstance(node, Record):
            return _plain_call(node)
        raise TypeError(f"not a value of a tree: {type(node).__name__}")

    # --- tensors ------------------------------------------------------------------------------------------------------

    def tensor(self, node: Tensor) -> torch.Tensor:
        tensor = self.bare_tensor(node)
        if node.parameter:
            parameter = torch.nn.Parameter(tensor, requires_grad=node.requires_grad)
            return self.with_attributes(parameter, node)
        if node.requires_grad:
            tensor.requires_grad_()
        return self.with_attributes(tensor, node)

    def bare_tensor(self, node: Tensor) -> torch.Tensor:
        """Return the tensor without what autograd and Python add to it."""
        dtype = _dtype(node.dtype)
        if node.storage.device == "meta" and node.storage.data is None:
            return torch.empty_strided(node.shape, node.stride, dtype=dtype, device="meta")
        itemsize = DTYPES[node.dtype].itemsize
        if (node.offset + span_of(node.shape, node.stride)) * itemsize > node.storage.size_bytes:
            raise UnreadableFile(
                f"a tensor of shape {list(node.shape)} reaches beyond its storage {node.storage.id}, "
                f"which has {node.storage.size_bytes:,} bytes"
            )
        storage = self.storage(node.storage, node.dtype)
        if node.quantizer is not None:
            return self.quantized(node, storage, dtype)
        tensor = torch.empty(0, dtype=dtype, device=storage.device)
        tensor.set_(storage, node.offset, node.shape, node.stride)
        if node.conj:
            torch._C._set_conj(tensor, True)  # noqa: SLF001 - what torch.load calls
        if node.neg:
            torch._C._set_neg(tensor, True)  # noqa: SLF001
        return tensor

    def quantized(self, node: Tensor, storage: torch.UntypedStorage, dtype: torch.dtype) -> torch.Tensor:
        scheme, *facts = node.quantizer or ()
        if scheme not in _QSCHEMES:
            raise UnreadableFile(f"a quantized tensor of the unknown scheme {str(scheme)[:60]}")
        parts = [self.part(fact) if isinstance(fact, Tensor) else fact for fact in facts]
        # What torch.load itself calls; both are without types.
        typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]  # torch
        quantizer = (getattr(torch, str(scheme)), *parts)
        rebuild = torch._utils._rebuild_qtensor  # noqa: SLF001
        try:
            rebuilt: torch.Tensor = rebuild(  # type: ignore[no-untyped-call]  # torch
                typed, node.offset, node.shape, node.stride, quantizer, False, OrderedDict()
            )
        except (RuntimeError, TypeError) as error:
            raise UnreadableFile(
                f"a quantized tensor of shape {list(node.shape)} cannot be put together on {storage.device}",
                why=str(error).splitlines()[0][:200],
            ) from None
        return rebuilt

    def part(self, node: Tensor) -> torch.Tensor:
        known = self.built.get(id(node))
        if known is not None:
            found: torch.Tensor = known[1]
            return found
        made: torch.Tensor = self.keep(node, self.bare_tensor(node))
        return made

    def tensor_of_parts(self, node: SparseTensor) -> torch.Tensor:
        """Return a sparse or nested tensor; its indices are checked, since they address memory."""
        parts = {name: self.part(part) for name, part in node.parts.items()}
        values = node.parts.get("values")
        try:
            tensor = _assemble(node, parts)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UnreadableFile(
                f"a tensor of layout {node.layout} cannot be put together from its parts",
                why=str(error).splitlines()[0][:200],
            ) from None
        if values is not None and values.parameter:
            return torch.nn.Parameter(tensor, requires_grad=values.requires_grad)
        return tensor

    def with_attributes(self, tensor: torch.Tensor, node: Tensor) -> torch.Tensor:
        if node.attributes is None:
            return tensor
        # Before the attributes are built: they may hold the tensor.
        self.keep(node, tensor)
        for name, child in node.attributes.pairs:
            if isinstance(name, str) and not name.startswith("__") and name != "_backward_hooks":
                vars(tensor)[name] = self.value(child)
        return tensor

    def storage_alone(self, node: StorageRef) -> torch.UntypedStorage:
        whole = self.storage(node.storage, node.dtype)
        itemsize = DTYPES[node.dtype].itemsize
        if node.offset == 0 and node.numel * itemsize == whole.nbytes():
            return whole
        start = node.offset * itemsize
        if start + node.numel * itemsize > whole.nbytes():
            raise UnreadableFile(f"a view reaches beyond its storage {node.storage.id}")
        return _bytes_tensor(whole)[start : start + node.numel * itemsize].clone().untyped_storage()

    # --- storages -----------------------------------------------------------------------------------------------------

    def storage(self, node: Storage, dtype: str) -> torch.UntypedStorage:
        """Return the storage; `dtype` is that of its first tensor, which says how big-endian bytes are swapped."""
        known = self.storages.get(id(node))
        if known is not None:
            return known[1]
        if node.data is None and node.size_bytes:
            raise UnreadableFile(f"storage {node.id} has no bytes in the file")
        kind = DTYPES[dtype]
        storage = self.on_cpu(node, kind.itemsize)
        if node.byteorder == "big" and kind.component > 1:
            flat = _bytes_tensor(storage)
            whole = flat.numel() - flat.numel() % kind.component
            flat[:whole] = flat[:whole].view(-1, kind.component).flip(1).reshape(-1)
        placed = self.place(storage, node.device)
        self.storages[id(node)] = (node, placed)
        return placed

    def on_cpu(self, node: Storage, itemsize: int) -> torch.UntypedStorage:
        data = node.data
        if data is None or data.size == 0:
            return torch.UntypedStorage(0)  # type: ignore[no-untyped-call]  # torch's own lacks types
        if isinstance(data, ByteRange) and self.use_map and data.offset % itemsize == 0:
            view = torch.frombuffer(self.map(data.source), dtype=torch.uint8, count=data.size, offset=data.offset)
            return view.untyped_storage()
        return _copied(data)

    def map(self, source: Source) -> mmap_module.mmap:
        known = self.maps.get(id(source))
        if known is None:
            known = self.maps[id(source)] = (source, _map_file(source))
        return known[1]


def _map_file(source: Source) -> mmap_module.mmap:
    try:
        # ACCESS_COPY: private pages, so tensors may be written to and the file stays as it is.
        return mmap_module.mmap(source.fileno(), source.size, access=mmap_module.ACCESS_COPY)
    except ValueError:
        raise UnreadableFile(
            f"{source.path}: the file became shorter while it was read",
            why="another program is writing it",
            do="wait until it is complete, then load it again",
        ) from None


def _copied(data: Bytes) -> torch.UntypedStorage:
    """Return the bytes in memory of their own: old streams have no alignment, compressed records no bytes to map."""
    # Memory straight from the kernel, in huge pages where it has them: most of the time of a large read goes into
    # getting memory four kilobytes at a time.
    memory = mmap_module.mmap(-1, data.size)
    if data.size >= _HUGE_BYTES and hasattr(mmap_module, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap_module.MADV_HUGEPAGE)
    into = memoryview(memory)
    if isinstance(data, ByteRange):
        data.read_into(into)
    else:
        at = 0
        for chunk in data.chunks():
            into[at : at + len(chunk)] = chunk
            at += len(chunk)
        if at != data.size:
            raise UnreadableFile(f"{data.size:,} bytes were announced, {at:,} came")
    return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()


# --- small values -----------------------------------------------------------------------------------------------------


def _empty_mapping(node: Map) -> dict[Any, Any]:
    if node.type == "OrderedDict":
        return OrderedDict()
    if node.type == "Counter":
        return Counter()
    if node.type == "defaultdict":
        return defaultdict(_factory(node))
    return {}


def _factory(node: Map) -> Callable[[], Any] | None:
    for name, child in node.attributes.pairs if node.attributes is not None else ():
        if name == "default_factory" and isinstance(child, Global) and child.module in {"builtins", "__builtin__"}:
            return _FACTORIES.get(child.name)
    return None


def _as_set(node: SetOf, parts: list[Any]) -> set[Any] | frozenset[Any]:
    try:
        return frozenset(parts) if node.frozen else set(parts)
    except TypeError as error:
        raise UnreadableFile("a set in the file has a member that cannot be one", why=str(error)) from None


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UnreadableFile(
            f"the file holds {name} tensors",
            why=f"torch {torch.__version__} has no such type",
            do="install a newer torch",
        )
    return dtype


def _torch_name(node: Global) -> Any:
    """Return the dtype, layout or quantization scheme of this name; any other stays a name."""
    if node.module == "torch":
        found = getattr(torch, node.name, None) if node.name.isidentifier() else None
        if isinstance(found, (torch.dtype, torch.layout, torch.qscheme)):
            return found
    return node


def _plain_call(node: Record) -> Any:
    """Return the device or size that a record stands for; any other stays a record."""
    if isinstance(node.function, Global) and isinstance(node.args, tuple):
        args = node.args
        if node.function.path == "torch.device" and all(isinstance(part, (str, int)) for part in args):
            try:
                return torch.device(*args)  # type: ignore[arg-type]  # text and numbers, as the line above saw
            except (RuntimeError, TypeError):
                return node
        if node.function.path == "torch.Size" and len(args) == 1 and isinstance(args[0], tuple):
            return torch.Size(args[0])  # type: ignore[arg-type]  # sizes, or torch raises TypeError
    return node


def _assemble(node: SparseTensor, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    if node.layout == "sparse_coo":
        return torch.sparse_coo_tensor(
            parts["indices"],
            parts["values"],
            node.shape,
            is_coalesced=bool(node.is_coalesced) or None,
            check_invariants=True,
        )
    if node.layout in {"sparse_csr", "sparse_bsr", "sparse_csc", "sparse_bsc"}:
        compressed, plain = (
            ("crow_indices", "col_indices")
            if node.layout in {"sparse_csr", "sparse_bsr"}
            else ("ccol_indices", "row_indices")
        )
        return torch.sparse_compressed_tensor(
            parts[compressed],
            parts[plain],
            parts["values"],
            node.shape,
            layout=getattr(torch, node.layout),
            check_invariants=True,
        )
    if node.layout == "nested":
        _check_nested(parts)
        # What torch.load itself calls.
        rebuilt: torch.Tensor = torch._utils._rebuild_nested_tensor(  # type: ignore[no-untyped-call]  # torch  # noqa: SLF001
            parts["buffer"], parts["sizes"], parts["strides"], parts["storage_offsets"]
        )
        return rebuilt
    if node.layout == "jagged":
        return torch.nested.nested_tensor_from_jagged(parts["values"], parts["offsets"], parts.get("lengths"))
    raise ValueError(f"the layout {node.layout} is not known")


def _check_nested(parts: dict[str, torch.Tensor]) -> None:
    """Raise ValueError where a piece of a nested tensor lies outside its buffer; torch does not look."""
    buffer, sizes, strides, offsets = (parts[name] for name in ("buffer", "sizes", "strides", "storage_offsets"))
    if sizes.shape != strides.shape or len(sizes) != len(offsets):
        raise ValueError("sizes, strides and offsets do not belong together")
    for size, stride, offset in zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True):
        if (
            min((*size, *stride, offset), default=0) < 0
            or offset + span_of(tuple(size), tuple(stride)) > buffer.numel()
        ):
            raise ValueError("a piece lies outside the buffer")
