"""Copies of what is tracked: tensors into host buffers, everything else into entries of ``state.json``."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rekindle.errors import StateMismatch
from rekindle.run.host_tensors import (
    HostBytes,
    HostCopies,
    is_dense,
    new_host_buffer,
    quantizer_of,
    sparse_parts,
    view_of,
)
from rekindle.run.sharded import boxes_of, is_sharded, local_of, own_box, refuse_partial
from rekindle.run.tracked import (
    canonical_keys,
    class_name,
    kind_of_tracked,
    names_of_parameters,
    non_persistent_buffers,
    place_of,
)
from rekindle.store.manifest import is_safe_name
from rekindle.store.plain import Json, Path, encode, path_text
from rekindle.store.shards import Part, ShardedTensor, encode_shards, name_of_part_file, name_of_shards
from rekindle.store.state import Entry, ModuleEntry, ObjectEntry, OptimizerEntry, OptimizerGroup, Reference
from rekindle.tensors import DTYPES, contiguous_stride
from rekindle.writers import Out
from rekindle.writers.safetensors import NamedTensor, write_tensors

__all__ = ["STATE_TENSORS", "Shelf", "bytes_writer", "capture_all", "sample_of", "tensor_writer"]

STATE_TENSORS = "state.safetensors"
# Frozen parameters of a module that is trained otherwise have a file of their own from this size on.
SPLIT_BYTES = 1024**2
_SAMPLED_BYTES = 512


def capture_all(tracked: Mapping[str, object], shelf: Shelf) -> tuple[dict[str, Entry], list[str]]:
    """Copy everything that is tracked onto the shelf; return its entries and notes on what cannot be held.

    Raises:
        StateMismatch: something cannot be saved; named by its path.
    """
    files = _file_names(tracked)
    names = names_of_parameters(tracked)
    notes: list[str] = []
    entries: dict[str, Entry] = {}
    for name, value in tracked.items():
        _check_name(name)
        if isinstance(value, torch.nn.Module):
            entries[name] = _capture_module(name, value, files[name], shelf)
        elif isinstance(value, torch.optim.Optimizer):
            entries[name] = _capture_optimizer(name, value, files[name], shelf, names, notes)
        else:
            entries[name] = _capture_object(name, value, shelf)
        shelf.finish_copies()  # before the next object is asked: this one's state may be in memory that they share
    return entries, notes


class Shelf:
    """The host copies of a capture, by file and key; filled into the buffers of an earlier one where they fit.

    Attributes:
        parameters: (name such as ``model.0.weight``, host copy) of the modules' parameters, which ought to be finite.
            Buffers are not among them: masks of infinities are meant.
        small: name -> bytes of files without tensors.
        frozen: names of files with nothing in them that is trained.
        devices: CUDA devices that were told to copy and may still be at it.
        wanted: in place of copies, the tensors that would be copied; None on a shelf that copies.
        sharded: name of what says where parts lie -> key -> tensor; the same in every process.
        sharded_bytes: of all tensors in it, the parts of the other processes included.

    Args:
        spare: host tensors to be filled again.
        copies: whether to copy, or only to list.
        ranks: (rank, processes) where each process puts its parts of sharded tensors on a shelf of its own, and rank 0
            everything else too; None where there is nothing sharded.
    """

    def __init__(
        self,
        spare: dict[tuple[str, str], torch.Tensor],
        *,
        copies: bool = True,
        ranks: tuple[int, int] | None = None,
    ) -> None:
        self.spare = spare
        self._ranks = ranks
        self._taken: set[tuple[str, str]] = set()
        self._pending = HostCopies()
        self._copies: dict[tuple[str, str], torch.Tensor] = {}
        self.sharded: dict[str, dict[str, ShardedTensor]] = {}
        self.sharded_bytes = 0
        self.wanted: dict[tuple[str, str], torch.Tensor] | None = None if copies else {}
        self.buffers: dict[tuple[str, str], torch.Tensor] = {}
        self.files: dict[str, list[NamedTensor]] = {}
        self.parameters: list[tuple[str, torch.Tensor]] = []
        self.small: dict[str, bytes] = {}
        self.frozen: set[str] = set()
        self.devices: set[torch.device] = set()

    @property
    def leads(self) -> bool:
        """Whether what is not sharded is put here: by rank 0."""
        return self._ranks is None or self._ranks[0] == 0

    def put(self, file: str, key: str, tensor: torch.Tensor, path: Path, *, shards: str | None = None) -> Reference:
        """Copy a tensor and return where it will lie.

        Args:
            file: a safetensors file.
            key: of the tensor there, changed where it cannot be.
            tensor: of any device and type.
            path: of the tensor, for words.
            shards: for one that is sharded, the name of what says where its parts lie; None for that of `file`.
        """
        if self._ranks is not None and is_sharded(tensor):
            return self._put_sharded(file, key, tensor, path, shards or name_of_shards(file))
        self._refuse(tensor, path)
        whole = tensor.detach()
        quantizer: Json = None
        if whole.is_quantized:
            quantizer = quantizer_of(whole)
            whole = whole.int_repr()
        name = str(tensor.dtype).removeprefix("torch.")
        raw = DTYPES[name].safetensors is None
        key = self._free_key(file, key)
        shape = tuple(tensor.shape)
        if self.leads:
            self._copies[file, key] = copy = self._copy(file, key, whole)
            self.files.setdefault(file, []).append(_named(key, name, copy))
        stride = tuple(tensor.stride())
        # Strides of size 0 (an expanded tensor) cannot be written to; such a tensor comes back row-major.
        keeps_stride = is_dense(shape, stride) and stride != contiguous_stride(shape)
        return Reference(
            file,
            key,
            dtype=name if raw else None,
            shape=shape if raw else None,
            stride=stride if keeps_stride and not tensor.is_quantized else None,
            device=str(tensor.device),
            quantizer=quantizer,
            requires_grad=tensor.requires_grad and tensor.is_leaf,
            parameter=isinstance(tensor, torch.nn.Parameter),
        )

    def _put_sharded(self, file: str, key: str, tensor: Any, path: Path, shards: str) -> Reference:
        """Copy this process's part of a tensor, and note where all parts will lie."""
        where = path_text(path)
        self._refuse(local_of(tensor), path)
        refuse_partial(tensor, where)
        if self._ranks is None:
            raise AssertionError("a sharded tensor on a shelf of one process")
        rank, world_size = self._ranks
        name = str(tensor.dtype).removeprefix("torch.")
        key = self._free_key(shards, key)
        own, local = own_box(tensor), local_of(tensor).detach()
        if own.shape != tuple(local.shape):
            raise StateMismatch(
                f"{where}: rank {rank} has {list(local.shape)} of it, where {list(own.shape)} is expected",
                why="it is not cut as torch cuts tensors",
            )
        parts = []
        for box in boxes_of(tensor):
            if 0 in box.shape:
                continue
            part_file = name_of_part_file(file, box.rank, world_size)
            parts.append(Part(part_file, key, box.offset, box.shape))
            if box.rank == rank:
                self._copies[shards, key] = copy = self._copy(part_file, key, local)
                self.files.setdefault(part_file, []).append(_named(key, name, copy))
        self.sharded.setdefault(shards, {})[key] = ShardedTensor(name, tuple(tensor.shape), tuple(parts))
        self.sharded_bytes += tensor.numel() * tensor.element_size()
        return Reference(
            shards,
            key,
            device=str(local.device),
            requires_grad=tensor.requires_grad and tensor.is_leaf,
            parameter=isinstance(tensor, torch.nn.Parameter),
        )

    def own_name_of(self, file: str) -> str:
        """Return where this process's parts of a file lie, where they are; otherwise the file."""
        own = file if self._ranks is None else name_of_part_file(file, *self._ranks)
        return own if own in self.files else file

    def copy_of(self, reference: Reference) -> torch.Tensor | None:
        """Return the host copy that a reference of this shelf names; None where another process has it."""
        return self._copies.get((reference.file, reference.key))

    def finish_copies(self) -> None:
        """Have all host memory copied that was put here; what CUDA devices were told to copy is another matter."""
        self._pending.finish()

    def finish_shards(self) -> bytes:
        """Put what says where parts lie among the small files; return it all, the same in every process."""
        found = {name: encode_shards(tensors) for name, tensors in sorted(self.sharded.items())}
        if self.leads:
            self.small |= found
        return b"".join(name.encode() + b"\0" + data for name, data in found.items())

    def leaf(self, file: str) -> Callable[[object, Path], Json | None]:
        """Return the function that `encode` asks about tensors, arrays and torch's own kinds."""

        def encode_leaf(value: object, path: Path) -> Json | None:
            if isinstance(value, torch.Tensor):
                return self._tensor(file, value, path)
            if isinstance(value, torch.Size):
                return {"$Size": list(value)}
            if isinstance(value, torch.dtype):
                return {"$dtype": str(value).removeprefix("torch.")}
            if isinstance(value, torch.device):
                return {"$device": str(value)}
            return self._numpy(file, value, path)

        return encode_leaf

    def _tensor(self, file: str, tensor: torch.Tensor, path: Path) -> Json:
        key = ".".join(str(part) for part in path)
        if tensor.layout == torch.strided:
            return self.put(file, key, tensor, path).to_json()
        parts: dict[str, Json] = {
            name: self.put(file, f"{key}.{name}", part, path).to_json() for name, part in sparse_parts(tensor, path)
        }
        return {
            "$sparse": str(tensor.layout).removeprefix("torch."),
            "shape": list(tensor.shape),
            "parts": parts,
            "coalesced": tensor.layout == torch.sparse_coo and tensor.is_coalesced(),
        }

    def _numpy(self, file: str, value: Any, path: Path) -> Json | None:
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
            return None
        if value.dtype.kind not in "biufcSUMm" or type(value) not in {numpy.ndarray, value.dtype.type}:
            kind = f"a NumPy array of {value.dtype}" if type(value) is numpy.ndarray else f"a {class_name(value)}"
            raise StateMismatch(f"{path_text(path)}: {kind} cannot be saved")
        if isinstance(value, numpy.generic):
            return {"$scalar": value.dtype.str, "bytes": value.tobytes().hex()}
        key = self._free_key(file, ".".join(str(part) for part in path))
        data = value.tobytes()  # row-major
        copy = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        if self.leads:
            self.buffers[file, key] = copy
            self.files.setdefault(file, []).append(NamedTensor(key, "uint8", (len(data),), HostBytes(copy)))
        return {"$array": f"{file}#{key}", "dtype": value.dtype.str, "shape": list(value.shape)}

    def _free_key(self, file: str, key: str) -> str:
        plain = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in key) or "value"
        free, count = plain, 1
        while (file, free) in self._taken or free == "__metadata__":
            count += 1
            free = f"{plain}~{count}"
        self._taken.add((file, free))
        return free

    def _copy(self, file: str, key: str, tensor: torch.Tensor) -> torch.Tensor:
        if self.wanted is not None:
            self.wanted[file, key] = tensor
            self.buffers[file, key] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            return self.buffers[file, key]
        spare = self.spare.pop((file, key), None)
        if spare is None or spare.dtype != tensor.dtype or spare.shape != tensor.shape:
            spare = new_host_buffer(tensor)
        if tensor.numel():
            self._pending.add(spare, tensor)
            if tensor.is_cuda:
                self.devices.add(tensor.device)
        self.buffers[file, key] = spare
        return spare

    @staticmethod
    def _refuse(tensor: torch.Tensor, path: Path) -> None:
        where = path_text(path)
        if tensor.is_nested:
            raise StateMismatch(
                f"{where}: a nested tensor cannot be saved",
                why="its parts have shapes of their own",
                do="keep a list of its parts: tensor.unbind()",
            )
        if torch.nn.parameter.is_lazy(tensor):
            raise StateMismatch(
                f"{where}: has no shape yet",
                why="a lazy module gets its parameters from its first batch",
                do="send one batch through the model before the first snapshot",
            )
        if tensor.is_meta:
            raise StateMismatch(f"{where}: is on the meta device and has no values", do="materialise the model first")
        if torch.utils._python_dispatch.is_traceable_wrapper_subclass(tensor):  # noqa: SLF001 - torch has no public name for it
            raise StateMismatch(
                f"{where}: a {type(tensor).__name__} cannot be saved",
                why="its values are not the bytes of one tensor",
                do='have rekindle shard the model: run.prepare(model, optimizer, shard="fsdp")'
                if is_sharded(tensor)
                else "",
            )
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            raise StateMismatch(f"{where}: rekindle does not know the type {tensor.dtype}")


def _named(key: str, dtype: str, copy: torch.Tensor) -> NamedTensor:
    """Return a host copy as it is written: as its bytes where safetensors has no such type."""
    if DTYPES[dtype].safetensors is not None:
        return NamedTensor(key, dtype, tuple(copy.shape), HostBytes(copy))
    flat = (torch.view_as_real(copy) if copy.is_complex() else copy).reshape(-1).view(torch.uint8)
    return NamedTensor(key, "uint8", (flat.numel(),), HostBytes(flat))


def tensor_writer(tensors: Sequence[NamedTensor]) -> Callable[[Out], None]:
    """Return what writes these tensors as one safetensors file."""

    def write(out: Out) -> None:
        write_tensors(tensors, out)

    return write


def sample_of(tensors: Sequence[NamedTensor]) -> int:
    """Return a CRC-32 over a little of each tensor: another one tells that they changed, the same one nothing."""
    crc = 0
    for named in tensors:
        crc = zlib.crc32(f"{named.key} {named.dtype} {named.shape}".encode("utf-8", "surrogatepass"), crc)
        data = named.data
        if isinstance(data, HostBytes) and data.size:
            view = view_of(data.tensor)
            for at in (0, len(view) // 2, max(0, len(view) - _SAMPLED_BYTES)):
                crc = zlib.crc32(view[at : at + _SAMPLED_BYTES], crc)
    return crc


def bytes_writer(data: bytes) -> Callable[[Out], None]:
    """Return what writes these bytes."""

    def write(out: Out) -> None:
        out.write(data)

    return write


def _check_name(name: str) -> None:
    if not name or name.startswith("$") or not name.isprintable() or len(name) > 200:
        raise StateMismatch(f"{ascii(name)[:80]} cannot be the name of something tracked", do="use a plain word")


def _file_names(tracked: Mapping[str, object]) -> dict[str, str]:
    """Return the file of each module and optimizer: its name, or a numbered one where that cannot be a file's."""
    taken = {STATE_TENSORS}
    found = {}
    for name, value in tracked.items():
        if not isinstance(value, (torch.nn.Module, torch.optim.Optimizer)):
            continue
        stem = name if is_safe_name(f"{name}.safetensors") else type(value).__name__.lower()
        file, count = f"{stem}.safetensors", 1
        while file.lower() in taken or not is_safe_name(file):
            count += 1
            file = f"{stem if is_safe_name(file) else 'tracked'}-{count}.safetensors"
        taken.add(file.lower())
        found[name] = file
    return found


def _capture_module(name: str, module: torch.nn.Module, file: str, shelf: Shelf) -> ModuleEntry:
    live = module.state_dict()
    plain = canonical_keys(list(live))
    elsewhere: dict[str, Json] = {}
    shared: dict[tuple[object, ...], list[str]] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    plain_parameter = {plain: parameters[key] for key, plain in canonical_keys(list(parameters)).items()}
    ordinary = {plain[key]: value for key, value in live.items() if _is_ordinary(key, value)}
    shard_of = _shards(file, ordinary, plain_parameter)
    placed: dict[str, str] = {}
    shards = name_of_shards(file) if any(map(is_sharded, ordinary.values())) else None
    for shard in dict.fromkeys(shard_of.values()) or (file,):
        if shelf.leads and shards is None:
            shelf.files.setdefault(shard, [])
    for key, value in live.items():
        path = (name, plain[key])
        if _is_ordinary(key, value):
            reference = shelf.put(shard_of[plain[key]], plain[key], value, path, shards=shards)
            placed[reference.key] = reference.file
            if shards is not None and reference.file != shards:
                _note_whole(shelf, shards, reference, value)
            if reference.key != plain[key]:  # a name that no file can hold
                elsewhere[plain[key]] = reference.to_json()
            copy = shelf.copy_of(reference)
            if plain[key] in plain_parameter and copy is not None:
                shelf.parameters.append((f"{name}.{plain[key]}", copy))
            if local_of(value).numel():
                shared.setdefault(place_of(value), []).append(plain[key])
        else:
            elsewhere[plain[key]] = encode(value, path, shelf.leaf(STATE_TENSORS))
    if shards is not None:
        file = shards
    elif len(set(shard_of.values())) > 1:
        file = f"{file}.index.json"
        if shelf.leads:
            shelf.small[file] = _index(placed, sum(tensor.nbytes for tensor in ordinary.values()))
    shelf.frozen.update(shelf.own_name_of(file) for file in _frozen_files(shard_of, plain_parameter))
    buffers = non_persistent_buffers(module)
    plain_buffer = canonical_keys(list(buffers))
    return ModuleEntry(
        class_name(module),
        file,
        keys=tuple(plain[key] for key in live),
        elsewhere=elsewhere,
        non_persistent={
            plain_buffer[key]: encode(buffer, (name, key), shelf.leaf(STATE_TENSORS))
            for key, (_, _, buffer) in buffers.items()
        },
        frozen=tuple(key for key, value in plain_parameter.items() if not value.requires_grad),
        tied=tuple(tuple(group) for group in shared.values() if len(group) > 1),
    )


def _note_whole(shelf: Shelf, shards: str, reference: Reference, tensor: torch.Tensor) -> None:
    """Have a tensor of a sharded module that is not sharded itself be found as the others are: as its one part."""
    shape = tuple(tensor.shape)
    part = Part(reference.file, reference.key, (0,) * len(shape), shape)
    parts = (part,) if tensor.numel() else ()
    whole = ShardedTensor(str(tensor.dtype).removeprefix("torch."), shape, parts)
    if reference.key in shelf.sharded.setdefault(shards, {}):
        raise StateMismatch(f"{ascii(reference.key)[:80]}: two keys of a sharded model that no file can tell apart")
    shelf.sharded[shards][reference.key] = whole


def _shards(
    file: str, ordinary: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, str]:
    """Return key -> file: one file for all; two where a large part is frozen, so that it need not be written again.

    Names and index are those of Hugging Face's shards, which everything that reads safetensors knows.
    """
    still = [key for key in ordinary if key in parameters and not parameters[key].requires_grad]
    size = sum(ordinary[key].nbytes for key in still)
    if size < SPLIT_BYTES or len(still) == len(ordinary):
        return dict.fromkeys(ordinary, file)
    stem = file.removesuffix(".safetensors")
    frozen = f"{stem}-00002-of-00002.safetensors"
    return {**dict.fromkeys(ordinary, f"{stem}-00001-of-00002.safetensors"), **dict.fromkeys(still, frozen)}


def _index(placed: Mapping[str, str], total_bytes: int) -> bytes:
    whole = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(placed.items()))}
    return json.dumps(whole, indent=2).encode() + b"\n"


def _frozen_files(shard_of: Mapping[str, str], parameters: Mapping[str, torch.nn.Parameter]) -> set[str]:
    trained = {file for key, file in shard_of.items() if key not in parameters or parameters[key].requires_grad}
    return set(shard_of.values()) - trained


def _is_ordinary(key: str, value: object) -> bool:
    """Tell whether a value of a state dict can stand in the module's own safetensors file."""
    if key.rpartition(".")[2] == "_extra_state" or not isinstance(value, torch.Tensor):
        return False
    kind = DTYPES.get(str(value.dtype).removeprefix("torch."))
    return value.layout == torch.strided and kind is not None and kind.safetensors is not None


def _capture_optimizer(
    name: str,
    optimizer: torch.optim.Optimizer,
    file: str,
    shelf: Shelf,
    names: Mapping[int, Sequence[str]],
    notes: list[str],
) -> OptimizerEntry:
    packed = optimizer.state_dict()
    states = dict(packed["state"])
    leaf = shelf.leaf(file)
    if shelf.leads and not any(is_sharded(p) for group in optimizer.param_groups for p in group["params"]):
        shelf.files.setdefault(file, [])
    groups = []
    unnamed = 0
    for number, (group, live) in enumerate(zip(packed["param_groups"], optimizer.param_groups, strict=True)):
        full: list[str | None] = []
        values: list[Json] = []
        for position, (index, parameter) in enumerate(zip(group["params"], live["params"], strict=True)):
            known = names.get(id(parameter))
            full.append(known[0] if known else None)
            unnamed += not known
            label = full[-1] or f"group{number}.param{position}"
            state = states.pop(index, None)
            values.append(None if state is None else encode(state, (label,), leaf))
        settings = {key: value for key, value in group.items() if key not in {"params", "param_names"}}
        groups.append(
            OptimizerGroup(
                tuple(full),
                tuple(tuple(parameter.shape) for parameter in live["params"]),
                encode(settings, (name, "param_groups", number), leaf),
                tuple(values),
            )
        )
    if unnamed:
        notes.append(
            f"{name}: {unnamed} of its parameters belong to nothing that is tracked, so their values are not saved; "
            "track the module they belong to"
        )
    other = {key: value for key, value in packed.items() if key not in {"state", "param_groups"}}
    if states:
        other["state"] = states  # kept under names of the optimizer's own, not under parameters
    return OptimizerEntry(
        class_name(optimizer),
        encode(dict(optimizer.defaults), (name, "defaults"), leaf),
        tuple(groups),
        encode(other, (name,), leaf),
    )


def _capture_object(name: str, value: Any, shelf: Shelf) -> ObjectEntry:
    kind = kind_of_tracked(value)
    if kind is None:
        raise StateMismatch(
            f"{name}: a {class_name(value)} cannot be tracked",
            why="it has no state_dict and load_state_dict, and is no dict, tensor or random generator",
            do="give its class these two methods, or keep what matters in run.state",
        )
    state: object
    match kind:
        case "object":
            try:
                state = value.state_dict()
            except Exception as error:
                error.add_note(f"while asking {name}, a {class_name(value)}, for its state_dict")
                raise
        case "torch.Generator":
            state = {"device": str(value.device), "state": value.get_state()}
        case "numpy.Generator":
            state = value.bit_generator.state
        case "numpy.RandomState":
            state = value.get_state(legacy=False)
        case "random.Random":
            state = value.getstate()
        case "dict":
            state = dict(value)
        case _:
            state = value
    return ObjectEntry(kind, class_name(value), encode(state, (name,), shelf.leaf(STATE_TENSORS)))
