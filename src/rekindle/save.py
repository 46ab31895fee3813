"""Objects to a file that opens anywhere, all of it or nothing.

`save` turns tensors, dicts, lists, tuples, sets and plain values into a tree (`rekindle.tree`), hands the tree to the
writer of the container that the suffix names, and moves the finished file into place. Nothing is pickled: an object
of any other class is refused, with its path, so that what was saved can always be opened without running code.

Law: a file that was there before is there, whole, until the new one is whole and on the disk; and what is refused is
refused before the first byte is written.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from rekindle.errors import CannotWrite
from rekindle.finding import Finding, Severity, Where
from rekindle.gather import gather_elements
from rekindle.source import CHUNK_BYTES, BufferBytes, Bytes
from rekindle.store.atomic import write_beside
from rekindle.tensors import DTYPES, Storage
from rekindle.tree import Global, Map, Record, SetOf, SparseTensor, StorageRef, Tensor, Value
from rekindle.writers.pickle_program import path_text, program_of, refuse
from rekindle.writers.pipe import Pipe
from rekindle.writers.safetensors import NamedTensor, why_not, write_tensors
from rekindle.writers.sharing import dragged_storages, untie
from rekindle.writers.torch_zip import write_program

__all__ = ["DraggedStorage", "Saved", "save", "tree_of"]

Path = tuple[object, ...]


class DraggedStorage(UserWarning):
    """A small view brought a large storage into a file; ``untie=True`` stores it alone."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written.

    Attributes:
        path: the file.
        container: ``torch-zip`` or ``safetensors``.
        size_bytes: size of the file.
        findings: what is worth saying: values whose type changes, storages that were dragged along, ...
    """

    path: str
    container: str
    size_bytes: int
    findings: tuple[Finding, ...]


def save(
    obj: object, path: str | os.PathLike[str], *, untie: bool = False, metadata: Mapping[str, str] | None = None
) -> Saved:
    """Write an object to a file, atomically and durably.

    Args:
        obj: a tensor, or any nesting of dict, OrderedDict, Counter, list, tuple and set that holds tensors (any dtype,
            layout and device; parameters too), None, bool, int, float, complex, str, bytes, bytearray, `torch.Size`,
            dtypes and devices. A module anywhere in it is saved as its ``state_dict()``, NumPy's numbers as Python's;
            both are said in the findings. Sharing is kept: what is one object or one storage now is one after loading.
        path: the file. ``.safetensors`` writes that format, for which `obj` must be a module or a flat dict of names
            to tensors; any other suffix writes what ``torch.load(..., weights_only=True)`` opens.
        untie: store each tensor alone, with its own elements only, however much of a storage it looks into.
        metadata: name -> text, for the header of a ``.safetensors`` file.

    Returns:
        What was written. Where a small view brings a large storage along, it says so, and `DraggedStorage` warns.

    Raises:
        CannotWrite: the object holds something that would need its code to be opened; the text says where. Or the
            path is a folder.
        OSError: the folder is missing or not writable, the disk is full, ...; what was at `path` is untouched.

    Example:
        >>> import rekindle as rk, torch
        >>> saved = rk.save({"epoch": 3, "model": torch.nn.Linear(2, 2).state_dict()}, "three.pth")  # doctest: +SKIP
        >>> saved.container  # doctest: +SKIP
        'torch-zip'
    """
    target = os.fspath(path)
    if metadata is not None and not target.lower().endswith(".safetensors"):
        raise CannotWrite(
            f"{target}: metadata has no place in this container",
            why="only the header of a safetensors file holds texts beside the tensors",
            do="give the file the suffix .safetensors, or save a dict with the texts in it",
        )
    builder = _Builder()
    tree = builder.tree(obj)
    if untie:
        _untie(tree)
    if target.lower().endswith(".safetensors"):
        container, size = "safetensors", _save_flat(tree, target, metadata)
        findings = list(builder.findings.values())
    else:
        container = "torch-zip"
        program = program_of(tree)
        with write_beside(target) as out:
            with Pipe(out, steady=True) as pipe:
                for _ in write_program(program, pipe):
                    pass
            size = out.size
        findings = [*builder.findings.values(), *_report_dragged(tree, target)]
    for finding in findings:
        if finding.name == "dragged-storage":
            warnings.warn(f"{finding.what}; {finding.do}", DraggedStorage, stacklevel=2)
    return Saved(target, container, size, tuple(findings))


def tree_of(obj: object) -> Value:
    """Return an object as a tree whose storages are the memory of its tensors; nothing is copied.

    Raises:
        CannotWrite: it holds something that is neither a tensor nor a plain value; the text says where.
    """
    return _Builder().tree(obj)


def _untie(tree: Value) -> None:
    untie(tree)


class _Builder:
    """Holds what was already turned into a node, by identity, and keeps the originals alive meanwhile."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[object, Value]] = {}
        self.storages: dict[int, tuple[torch.UntypedStorage, Storage]] = {}
        self.findings: dict[str, Finding] = {}

    def tree(self, obj: object) -> Value:
        try:
            return self.node(obj, ())
        except RecursionError:
            raise CannotWrite(
                "the object is nested too deep", why="hundreds of containers inside each other", do="flatten it"
            ) from None

    def node(self, obj: object, path: Path) -> Value:
        """Return the node of an object; the same object gives the same node."""
        kind = type(obj)
        if obj is None or kind in _PLAIN:
            return obj  # type: ignore[return-value]  # one of the plain types of a tree
        known = self.nodes.get(id(obj))
        if known is not None:
            return known[1]
        made = self.container(obj, path)
        if made is None:
            made = self.leaf(obj, path)
        known = self.nodes.get(id(obj))
        if known is not None:  # a tuple that something in it refers to
            return known[1]
        return self.keep(obj, made)

    def keep(self, obj: object, node: Value) -> Value:
        self.nodes[id(obj)] = (obj, node)
        return node

    def container(self, obj: object, path: Path) -> Value:
        """Return the node of a container, None where it is none; those that may hold themselves are kept first."""
        kind = type(obj)
        if isinstance(obj, dict) and kind in _MAPS:
            attributes = vars(obj) if isinstance(obj, OrderedDict) else {}
            made = Map([], kind.__name__)
            self.keep(obj, made)
            for key, child in obj.items():
                made.pairs.append((self.key(key, path), self.node(child, (*path, key))))
            if attributes:
                made.attributes = Map([(name, self.node(child, (*path, name))) for name, child in attributes.items()])
            return made
        if isinstance(obj, list) and kind is list:
            items: list[Value] = []
            self.keep(obj, items)
            items.extend(self.node(child, (*path, index)) for index, child in enumerate(obj))
            return items
        if isinstance(obj, tuple) and kind is tuple:
            return tuple(self.node(child, (*path, index)) for index, child in enumerate(obj))
        if isinstance(obj, set) and kind is set:
            return SetOf([self.key(child, path) for child in obj])
        return None

    def key(self, key: object, path: Path) -> Value:
        if key is None or type(key) in _PLAIN or type(key) is tuple:
            return self.node(key, path)
        if _is_numpy_number(key):
            return self.node(key, path)
        raise CannotWrite(
            f"at {path_text(path) or 'the top'}: {_a_kind(key)} as a key",
            why="keys and members of sets are plain values in a file that opens without running code",
            do="use text or numbers",
        )

    def leaf(self, obj: object, path: Path) -> Value:
        if isinstance(obj, torch.nn.Module):
            self.note(
                "module-as-state-dict",
                f"{path_text(path) or 'the module'} is saved as its state_dict()",
                why="a whole module would need its class to be opened",
            )
            return self.node(obj.state_dict(), path)
        if isinstance(obj, torch.Tensor):
            return self.tensor(obj, path)
        if isinstance(obj, torch.UntypedStorage):
            return StorageRef(self.storage(obj, path), "uint8", 0, obj.nbytes())
        if isinstance(obj, torch.Size):
            return Record(Global("torch", "Size"), (tuple(obj),))
        if isinstance(obj, torch.dtype) and str(obj).removeprefix("torch.") in DTYPES:
            return Global("torch", str(obj).removeprefix("torch."))
        if isinstance(obj, torch.device):
            return Record(Global("torch", "device"), (obj.type,) if obj.index is None else (obj.type, obj.index))
        if isinstance(obj, (torch.layout, torch.qscheme)):
            return Global("torch", str(obj).removeprefix("torch."))
        if type(obj) is bytearray:
            return Record(Global("builtins", "bytearray"), (bytes(obj),))
        if _is_numpy_number(obj):
            self.note("numpy-number", f"{path_text(path) or 'the value'}: {_a_kind(obj)} is saved as a Python number")
            return self.node(obj.item(), path)  # type: ignore[attr-defined]  # every NumPy number has it
        refuse(path, f"{_a_kind(obj)}{_advice(obj)}")
        return None

    def tensor(self, tensor: torch.Tensor, path: Path) -> Value:
        kind = type(tensor)
        if kind not in {torch.Tensor, torch.nn.Parameter}:
            refuse(path, f"{_a_kind(tensor)}, a tensor whose class would have to be imported")
        if tensor.is_meta:
            refuse(path, "a tensor on the meta device, which has no values")
        parameter = isinstance(tensor, torch.nn.Parameter)
        plain = tensor.detach() if parameter else tensor
        if tensor.is_nested or tensor.layout != torch.strided:
            return self.tensor_of_parts(plain, parameter, tensor.requires_grad, path)
        made = Tensor(
            self.storage(tensor.untyped_storage(), path),
            str(tensor.dtype).removeprefix("torch."),
            int(tensor.storage_offset()),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.requires_grad,
        )
        made.parameter = parameter
        made.conj = tensor.is_conj()
        made.neg = tensor.is_neg()
        if tensor.is_quantized:
            made.quantizer = self.quantizer(plain, path)
        made.attributes = self.attributes(tensor, path)
        return made

    def quantizer(self, tensor: torch.Tensor, path: Path) -> tuple[Value, ...]:
        if tensor.qscheme() in {torch.per_tensor_affine, torch.per_tensor_symmetric}:
            return "per_tensor_affine", tensor.q_scale(), tensor.q_zero_point()
        return (
            # torch rebuilds both kinds of channels from this name
            "per_channel_affine",
            self.node(tensor.q_per_channel_scales(), path),
            self.node(tensor.q_per_channel_zero_points(), path),
            tensor.q_per_channel_axis(),
        )

    def tensor_of_parts(self, tensor: torch.Tensor, parameter: bool, requires_grad: bool, path: Path) -> Value:
        layout = str(tensor.layout).removeprefix("torch.")
        coalesced = None
        if tensor.is_nested and tensor.layout == torch.strided:
            layout = "nested"
            found = {
                "buffer": tensor.values(),
                "sizes": tensor._nested_tensor_size(),  # noqa: SLF001 - torch.save itself asks these
                "strides": tensor._nested_tensor_strides(),  # noqa: SLF001
                "storage_offsets": tensor._nested_tensor_storage_offsets(),  # noqa: SLF001
            }
            shape = tuple(found["sizes"].shape)
        elif tensor.layout == torch.sparse_coo:
            found = {"indices": tensor._indices(), "values": tensor._values()}  # noqa: SLF001 - also if not coalesced
            shape, coalesced = tuple(tensor.shape), tensor.is_coalesced()
        elif tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
            found = {
                "crow_indices": tensor.crow_indices(),
                "col_indices": tensor.col_indices(),
                "values": tensor.values(),
            }
            shape = tuple(tensor.shape)
        elif tensor.layout in {torch.sparse_csc, torch.sparse_bsc}:
            found = {
                "ccol_indices": tensor.ccol_indices(),
                "row_indices": tensor.row_indices(),
                "values": tensor.values(),
            }
            shape = tuple(tensor.shape)
        else:
            refuse(path, f"a tensor of layout {layout}, which has no form in a file; .to_dense() has one")
            return None
        parts: dict[str, Tensor] = {}
        for name, part in found.items():
            node = self.tensor(part.detach(), (*path, name))
            if isinstance(node, Tensor):
                parts[name] = node
        if "values" in parts:
            parts["values"].parameter = parameter
            parts["values"].requires_grad = requires_grad
        return SparseTensor(layout, shape, parts, coalesced)

    def attributes(self, tensor: torch.Tensor, path: Path) -> Map | None:
        """Return what was set on the tensor itself; what is no plain value is left out and said."""
        pairs: list[tuple[Value, Value]] = []
        for name, child in vars(tensor).items():
            try:
                pairs.append((name, self.node(child, (*path, name))))
            except CannotWrite:
                self.note(
                    "attribute-left-out", f"{path_text((*path, name))}: {_a_kind(child)}, set on a tensor, is left out"
                )
        return Map(pairs) if pairs else None

    def storage(self, storage: torch.UntypedStorage, path: Path) -> Storage:
        key = storage._cdata  # noqa: SLF001 - the identity of a storage; data_ptr() is 0 for all empty ones
        known = self.storages.get(key)
        if known is None:
            if storage.device.type == "meta":
                refuse(path, "a storage on the meta device, which has no values")
            made = Storage(str(len(self.storages)), storage.nbytes(), _bytes_of(storage), str(storage.device))
            known = self.storages[key] = (storage, made)
        return known[1]

    def note(self, name: str, what: str, why: str = "") -> None:
        # The first of each kind stands for all: a loss history of NumPy numbers is one remark, not thousands.
        self.findings.setdefault(name, Finding("RK-SAVE-01", name, Severity.NOTE, what, why))


_PLAIN = frozenset((bool, int, float, complex, str, bytes))
_MAPS = frozenset((dict, OrderedDict, Counter))


def _a_kind(obj: object) -> str:
    kind = type(obj)
    if kind.__name__ in {"function", "builtin_function_or_method", "method"}:
        return f"a function ({getattr(obj, '__qualname__', '?')})"
    if kind.__name__ == "generator":
        return "a generator"
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a {module}{kind.__qualname__}"


def _advice(obj: object) -> str:
    """Return what to save instead, where that is known."""
    if hasattr(obj, "state_dict"):
        return "; save its state_dict()"
    if isinstance(obj, dict):
        return "; save dict(...) of it"
    if isinstance(obj, tuple):
        return "; save tuple(...) of it"
    if isinstance(obj, frozenset):
        return "; save set(...) of it"
    if type(obj).__module__ == "numpy":
        return "; save torch.from_numpy(...) of it"
    if isinstance(obj, os.PathLike):
        return "; save str(...) of it"
    return ""


def _is_numpy_number(obj: object) -> bool:
    """Whether it is one of NumPy's numbers, without importing NumPy."""
    kind = type(obj)
    if kind.__module__ != "numpy" or kind.__name__ in {"ndarray", "str_", "bytes_", "datetime64", "timedelta64"}:
        return False
    # longdouble holds more digits than Python's float.
    return callable(getattr(obj, "item", None)) and type(obj.item()) in _PLAIN  # type: ignore[attr-defined]  # asked


def _report_dragged(tree: Value, target: str) -> Iterator[Finding]:
    for dragged in dragged_storages(tree):
        views = "a view" if dragged.tensors == 1 else f"{dragged.tensors:,} views"
        yield Finding(
            "RK-SAVE-02",
            "dragged-storage",
            Severity.WARNING,
            f"{target}: {views} of {dragged.used_bytes:,} bytes brought a storage of {dragged.storage.size_bytes:,} "
            "bytes into the file",
            why="a view shares the storage of the tensor it was cut from, and a storage is saved whole",
            do="rk.save(..., untie=True) stores each tensor alone",
            where=Where(member=f"data/{dragged.storage.id}"),
        )


def _save_flat(tree: Value, target: str, metadata: Mapping[str, str] | None) -> int:
    """Write a flat dict of tensors as safetensors and return the size of the file."""
    if not isinstance(tree, Map):
        raise CannotWrite(
            f"{target}: a safetensors file holds a dict of names to tensors",
            do="save {'name': tensor}, or give the file the suffix .pth",
        )
    tensors = []
    for key, value in tree.pairs:
        place = f"at [{key!r}]"
        if not isinstance(key, str):
            raise CannotWrite(f"{place}: a safetensors file names its tensors with text", do="use text as keys")
        if not isinstance(value, Tensor) or value.quantizer is not None:
            kind = value.layout if isinstance(value, SparseTensor) else type(value).__name__.lower()
            raise CannotWrite(
                f"{place}: {'a quantized tensor' if isinstance(value, Tensor) else kind}",
                why="a safetensors file holds plain tensors in one flat dict, nothing else",
                do="give the file the suffix .pth, which holds all of it",
            )
        reason = why_not(value.dtype)
        if reason:
            raise CannotWrite(f"{place}: {reason}", do="give the file the suffix .pth")
        data = gather_elements(
            value.storage, value.dtype, value.offset, value.shape, value.stride, conj=value.conj, neg=value.neg
        )
        tensors.append(NamedTensor(key, value.dtype, value.shape, data))
    with write_beside(target) as out:
        with Pipe(out, steady=True) as pipe:
            write_tensors(tensors, pipe, None if metadata is None else {"format": "pt", **metadata})
        return out.size


def _bytes_of(storage: torch.UntypedStorage) -> Bytes:
    """Return a view of the storage's memory, or a copy piece by piece where it lies on another device."""
    size = storage.nbytes()
    if size == 0:
        return BufferBytes(memoryview(b""))
    if storage.device.type != "cpu":
        return _DeviceBytes(storage, 0, size)
    if storage.data_ptr() == 0:
        raise CannotWrite(
            f"a storage of {size:,} bytes has no memory",
            why="it belongs to a fake tensor, or it was freed by resize_(0)",
        )
    block = (ctypes.c_ubyte * size).from_address(storage.data_ptr())
    block.owner = storage  # type: ignore[attr-defined]  # keeps the memory alive as long as anybody looks at it
    return BufferBytes(memoryview(block).cast("B"))


@dataclass(frozen=True, slots=True)
class _DeviceBytes:
    """A part of a storage on another device, copied to the host in pieces when it is written."""

    storage: torch.UntypedStorage
    offset: int
    size: int

    def sub(self, offset: int, size: int) -> _DeviceBytes:
        return _DeviceBytes(self.storage, self.offset + offset, size)

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        whole = torch.empty(0, dtype=torch.uint8, device=self.storage.device)
        whole.set_(self.storage)
        end = self.offset + self.size
        for at in range(self.offset, end, chunk_bytes):
            piece = _bytes_of(whole[at : min(at + chunk_bytes, end)].cpu().untyped_storage())
            yield from piece.chunks(chunk_bytes)
