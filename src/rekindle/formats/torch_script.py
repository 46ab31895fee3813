"""TorchScript archives: what `torch.jit.save` writes, also for mobile devices, and the form of PyTorch 1.0 to 1.3.

The root of ``data.pkl`` is an object of a class ``__torch__.<path>`` whose source lies in ``code/``. Its attributes are
parameters, buffers, submodules and plain values alike; only the source says which is which: a module's class is written
``class Name(Module):`` with the lists ``__parameters__`` and ``__buffers__``. The source is read line by line for these
lists and never compiled. The state dict is then what `torch.jit.load(...).state_dict()` gives. Tensors that are in
neither list, and the constants that the code refers to as ``CONSTANTS.c0``, are listed behind it.

PyTorch 1.0 to 1.3 wrote ``model.json`` (a tree of modules with numbered tensors) and ``tensors/`` instead.

Facts: PyTorch 2.13 `torch/csrc/jit/serialization/{export_module,import,pickler,python_print,import_legacy}.cpp`,
`torch/jit/_pickle.py`; 1.0 `caffe2/proto/torch.proto`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rekindle.errors import UnreadableFile
from rekindle.finding import Finding, Severity
from rekindle.formats._archive_storages import ArchiveReader, directory_of
from rekindle.formats._values import count_of, text_pairs
from rekindle.formats._zip_directory import Directory, inflate
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import Source
from rekindle.tensors import DTYPES, TensorTable, span_of
from rekindle.tree import Global, Map, Module, Record, SetOf, SparseTensor, Tensor, Value, distinct_nodes

__all__ = ["NAME", "is_archive", "read", "read_archive"]

NAME = "torchscript"

# All of an archive's source code that is read: that of large models has a few megabytes.
_CODE_BYTES = 64 * 1024**2

_HELPERS = frozenset(("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag"))

# Element types of `model.json`, by the names and numbers of `caffe2.TensorProto`.
_OLD_DTYPES = {
    "FLOAT": "float32",
    "INT32": "int32",
    "BYTE": "uint8",
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT16": "int16",
    "INT64": "int64",
    "FLOAT16": "float16",
    "DOUBLE": "float64",
}
_OLD_NUMBERS = {1: "FLOAT", 2: "INT32", 3: "BYTE", 5: "BOOL", 6: "UINT8", 7: "INT8", 9: "INT16", 10: "INT64"} | {
    12: "FLOAT16",
    13: "DOUBLE",
}


def is_archive(names: set[str]) -> bool:
    """Tell whether these are the records (without the folder around them) of a TorchScript archive."""
    return "constants.pkl" in names or ("model.json" in names and any(n.startswith("tensors/") for n in names))


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read an archive that is known to be TorchScript; see `read_archive`.

    Raises:
        UnreadableFile: it has no directory.
    """
    findings: list[Finding] = []
    return read_archive(source, directory_of(source, limits, findings), limits, findings)


def read_archive(source: Source, directory: Directory, limits: Limits, findings: list[Finding]) -> Opened:
    """Read the object and the lists of its code; the storages stay where they are.

    Args:
        source: the open file.
        directory: of the archive, read already.
        limits: caps.
        findings: what was found so far; more is added.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    archive = ArchiveReader(source, directory, _root_of(directory), limits, findings)
    facts: dict[str, object] = {"byteorder": archive.byteorder}
    classes, code = _read_code(archive)
    extras: list[tuple[Value, Value]] = []
    tree: Value
    if "data.pkl" not in archive.records and "model.json" in archive.records:
        tree = _read_model_json(archive)
        readable = tree is not None
    else:
        value, readable = archive.program("data.pkl", lambda key: f"data/{key}")
        tree = _Modules(classes, archive).convert(value) if readable else None
        constants, _ = archive.program("constants.pkl", lambda key: f"constants/{key}")
        extras.extend(_attributes(tree))
        if isinstance(constants, (tuple, list)):
            extras.extend((f"CONSTANTS.c{index}", constant) for index, constant in enumerate(constants))
    if code:
        facts["code"] = code
    facts |= _facts(archive)
    _report_unread(archive)
    return Opened(
        source.path,
        NAME,
        source.size,
        tree,
        _table(tree, extras, limits, archive),
        tuple(findings),
        archive.members(),
        facts,
        source.close,
        listed=readable,
    )


def _root_of(directory: Directory) -> str:
    """Return the folder of the shallowest ``constants.pkl`` (or ``model.json``), with its slash."""
    roots = [
        name[: -len(end)]
        for name in (record.name for record in directory.records)
        for end in ("constants.pkl", "model.json")
        if name == end or name.endswith("/" + end)
    ]
    return min(roots, key=lambda root: root.count("/"), default="")


# --- the code: which attribute is what -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Class:
    """What the code says of one class: whether it is a module, and its two lists."""

    is_module: bool
    parameters: frozenset[str] = frozenset()
    buffers: frozenset[str] = frozenset()


_CLASS_LINE = re.compile(r"^class (\w+)(?:\((\w+)\))?:")
_LIST_LINE = re.compile(r"^ {2}__(parameters|buffers)__ = \[(.*)\]$")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _read_code(archive: ArchiveReader) -> tuple[dict[str, _Class], dict[str, str]]:
    """Return (class path -> what it is, name of the file -> its text) of the code in the archive."""
    classes: dict[str, _Class] = {}
    texts: dict[str, str] = {}
    left = _CODE_BYTES
    for name, record in archive.records.items():
        if not name.startswith("code/") or not name.endswith(".py"):
            continue
        text = archive.text(name, left) if record.size <= left else None
        if text is None:
            archive.add(
                "RK-FILE-52",
                "unread-code",
                Severity.WARNING,
                f"{name} cannot be read; which tensors of its classes are parameters is not known",
                "it is damaged, or the archive holds more source code than is read",
                member=record.name,
            )
            continue
        left -= record.size
        texts[name] = text
        _read_classes(name[len("code/") : -len(".py")].replace("/", "."), text, classes)
    return classes, texts


def _read_classes(module: str, text: str, classes: dict[str, _Class]) -> None:
    current: _Class | None = None
    for line in text.splitlines():
        if line.startswith("class "):
            found = _CLASS_LINE.match(line)
            if found:
                current = classes[f"{module}.{found[1]}"] = _Class(found[2] == "Module")
        elif current is not None and line.startswith("  __"):
            listed = _LIST_LINE.match(line)
            if listed:
                names = frozenset(_plain(name) for name in _TEXT.findall(listed[2]))
                if listed[1] == "parameters":
                    current.parameters = names
                else:
                    current.buffers = names
        elif line and not line.startswith(" "):
            current = None


def _plain(text: str) -> str:
    """Return what a quoted name says; the printer escapes as C does."""
    return re.sub(r"\\(.)", r"\1", text) if "\\" in text else text


# --- the object ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Modules:
    """Turns records of module classes into modules, and typed lists into lists; each node of the object once."""

    classes: Mapping[str, _Class]
    archive: ArchiveReader
    unknown: dict[str, None] = field(default_factory=dict)
    # By id of what is replaced: what comes in its place. The object stays alive meanwhile, so an id means one node.
    become: dict[int, Value] = field(default_factory=dict)

    def convert(self, value: Value) -> Value:
        """Return the object with its modules understood; the root is a module whatever the code says."""
        nodes = list(distinct_nodes(value))
        modules: list[tuple[Module, Record]] = []
        for node in nodes:
            if not isinstance(node, Record) or not isinstance(node.function, Global) or not isinstance(node.state, Map):
                continue
            if node is value or self._is_module(node):
                module = Module(node.function)
                self.become[id(node)] = module
                modules.append((module, node))
        for node in nodes:
            self._renew(node)
        for module, record in modules:
            self._fill(module, record)
        if self.unknown:
            self._report_unknown()
        return self._now(value)

    def _is_module(self, record: Record) -> bool:
        function = record.function
        if not isinstance(function, Global) or not function.module.startswith("__torch__"):
            return False
        known = self.classes.get(function.path)
        if known is not None:
            return known.is_module
        # Without its code, an object with a flag `training` is a module: every one has it.
        return any(name == "training" for name, _ in text_pairs(record.state))

    def _renew(self, node: Value) -> None:
        """Put what its parts have become into a container."""
        if isinstance(node, list):
            node[:] = [self._now(child) for child in node]
        elif isinstance(node, Map):
            node.pairs[:] = [(key, self._now(child)) for key, child in node.pairs]
        elif isinstance(node, SetOf):
            node.items[:] = [self._now(child) for child in node.items]
        elif isinstance(node, Record):
            node.args, node.state = self._now(node.args), self._now(node.state)

    def _now(self, value: Value) -> Value:
        """Return what stands for a value: a module for its record, the list of a typed list."""
        if not isinstance(value, (Record, tuple)):
            return value
        known = self.become.get(id(value), self)
        if known is not self:
            return known  # type: ignore[return-value]  # `self` only says that nothing is known
        now: Value = value
        if isinstance(value, Record):
            for _ in range(16):  # a typed list of a typed list...
                if not isinstance(now, Record) or id(now) in self.become or (inner := _typed(now)) is None:
                    break
                now = inner[0]
            if now is not value and isinstance(now, Record):
                now = self.become.get(id(now), now)
        else:
            parts = tuple(self._now(part) if isinstance(part, Record) else part for part in value)
            if any(new is not old for new, old in zip(parts, value, strict=True)):
                now = parts
        self.become[id(value)] = now
        return now

    def _fill(self, module: Module, record: Record) -> None:
        known = self.classes.get(module.type.path)
        for name, value in text_pairs(record.state):
            if isinstance(value, Module):
                module.modules[name] = value
            elif known is None and isinstance(value, (Tensor, SparseTensor)):
                self.unknown[module.type.path] = None
                part = module.parameters if isinstance(value, Tensor) and value.requires_grad else module.buffers
                part[name] = value
            elif known is not None and name in known.parameters:
                module.parameters[name] = value
                if isinstance(value, Tensor):
                    value.parameter = True
            elif known is not None and name in known.buffers:
                module.buffers[name] = value
            else:
                module.attributes.pairs.append((name, value))

    def _report_unknown(self) -> None:
        shown = ", ".join(list(self.unknown)[:3]) + (" and more" if len(self.unknown) > 3 else "")
        self.archive.add(
            "RK-FILE-52",
            "unread-code",
            Severity.WARNING,
            f"the archive has no code for {shown}: tensors with gradients are taken for parameters, others for buffers",
            "archives for mobile devices may leave the code out; only it says which tensor is what",
        )


def _typed(record: Record) -> tuple[Value] | None:
    """Return the list that a typed list is made from, in a tuple; None for any other call."""
    function, args = record.function, record.args
    if not isinstance(function, Global) or function.module != "torch.jit._pickle" or function.name not in _HELPERS:
        return None
    return (args[0],) if isinstance(args, (tuple, list)) and args else None


def _attributes(tree: Value) -> list[tuple[Value, Value]]:
    """Return what modules hold besides parameters, buffers and submodules, by path."""
    extras: list[tuple[Value, Value]] = []
    seen: set[int] = set()
    pending: list[tuple[str, Value]] = [("", tree)]
    while pending:
        prefix, node = pending.pop()
        if isinstance(node, Module) and id(node) not in seen:
            seen.add(id(node))
            extras.extend((f"{prefix}{name}", value) for name, value in text_pairs(node.attributes))
            pending.extend((f"{prefix}{name}.", child) for name, child in reversed(node.modules.items()))
        elif isinstance(node, Record) and not prefix:
            extras.append(("object", node))
    return extras


def _table(tree: Value, extras: list[tuple[Value, Value]], limits: Limits, archive: ArchiveReader) -> TensorTable:
    """List the state dict and, behind it, all other tensors."""
    from rekindle.listing import table_of  # noqa: PLC0415

    table, found = table_of(tree, limits)
    archive.findings.extend(found)
    rest, _ = table_of(Map(extras), limits)
    entries = [entry for entry in rest if entry.key not in table]
    if not entries:
        return table
    shown = ", ".join(entry.key for entry in entries[:4]) + (" and more" if len(entries) > 4 else "")
    archive.add(
        "RK-FILE-56",
        "outside-state-dict",
        Severity.NOTE,
        f"{len(entries):,} tensors that are neither parameters nor buffers ({shown}) are listed behind the state dict",
        "constants of the code, and attributes of modules; state_dict() leaves them out",
    )
    return TensorTable([*table, *entries])


def _facts(archive: ArchiveReader) -> dict[str, object]:
    facts: dict[str, object] = {"root": archive.root.rstrip("/")}
    for fact, name in (("version", "version"), ("serialization_id", ".data/serialization_id")):
        text = archive.text(name, 4096)
        if text is not None:
            facts[fact] = text.strip()
    if "bytecode.pkl" in archive.records:
        facts["mobile"] = True
        value, readable = archive.program("bytecode.pkl", lambda key: f"constants/{key}")
        if readable and isinstance(value, (tuple, list)) and value and count_of(value[0]) is not None:
            facts["bytecode_version"] = value[0]
    extra = [name for name in archive.records if name.startswith("extra/")]
    if extra:
        facts["extra_files"] = [name[len("extra/") :] for name in extra]
    return facts


def _report_unread(archive: ArchiveReader) -> None:
    inputs = [name for name in archive.records if name.startswith("traced_inputs")]
    if inputs:
        archive.add(
            "RK-FILE-51",
            "not-listed",
            Severity.NOTE,
            f"{inputs[0].partition('/')[0]} holds the inputs that the model was traced with; they are not listed",
            "they are no weights",
            member=inputs[0],
        )


# --- PyTorch 1.0 to 1.3 ----------------------------------------------------------------------------------------------


def _read_model_json(archive: ArchiveReader) -> Module | None:
    """Return the tree of modules of a ``model.json``; None (and a finding) where it cannot be read."""
    record = archive.records["model.json"]
    model: object = None
    try:
        if record.data is not None:
            model = json.loads(inflate(record.data, archive.limits.header_bytes, record.name))
    except (ValueError, RecursionError, UnreadableFile) as error:
        _odd_json(archive, f"it is not the JSON that it should be: {str(error)[:120]}")
        return None
    root = model.get("mainModule") if isinstance(model, dict) else None
    tensors = model.get("tensors", []) if isinstance(model, dict) else None
    if not isinstance(root, dict) or not isinstance(tensors, list):
        _odd_json(archive, "it has no mainModule and tensors")
        return None
    if isinstance(model, dict) and "attributes.pkl" in archive.records:
        archive.add(
            "RK-FILE-51",
            "not-listed",
            Severity.NOTE,
            "attributes.pkl holds plain attributes of the modules; they are not listed",
            "they are no weights",
            member="attributes.pkl",
        )
    made = [_old_tensor(archive, index, entry) for index, entry in enumerate(tensors)]
    return _old_module(archive, root, made)


def _odd_json(archive: ArchiveReader, what: str) -> None:
    archive.add(
        "RK-FILE-54",
        "odd-model-json",
        Severity.ERROR,
        f"model.json: {what}",
        "the file was overwritten, or another program wrote it",
        member="model.json",
    )


def _whole(value: object) -> int | None:
    """Return a number of the JSON form of a protocol buffer, which writes 64-bit numbers as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return count_of(int(value))
    return count_of(value)


def _old_tensor(archive: ArchiveReader, index: int, entry: object) -> Tensor | None:
    fields = entry if isinstance(entry, dict) else {}
    kind = fields.get("dataType", "FLOAT")
    dtype = _OLD_DTYPES.get(_OLD_NUMBERS.get(kind, "") if type(kind) is int else str(kind))
    shape = [_whole(size) for size in fields.get("dims", [])] if isinstance(fields.get("dims", []), list) else [None]
    stride = (
        [_whole(step) for step in fields.get("strides", [])] if isinstance(fields.get("strides", []), list) else [None]
    )
    offset = _whole(fields.get("offset", 0))
    data = fields.get("data")
    name = data.get("key") if isinstance(data, dict) else None
    if (
        dtype is None
        or offset is None
        or None in shape
        or None in stride
        or len(shape) != len(stride)
        or len(shape) > archive.limits.tensor_dims
        or not isinstance(name, str)
    ):
        archive.add(
            "RK-FILE-54",
            "odd-model-json",
            Severity.ERROR,
            f"tensor {index} of model.json is not described as torch did; it is not listed",
            "the file was overwritten, or another program wrote it",
            member="model.json",
        )
        return None
    sizes, steps = tuple(s for s in shape if s is not None), tuple(s for s in stride if s is not None)
    reach = span_of(sizes, steps)
    wanted = (offset + reach) * DTYPES[dtype].itemsize if reach else 0
    device = fields.get("device")
    storage = archive.storage(name, wanted, device[:80] if isinstance(device, str) else "cpu")
    return Tensor(storage, dtype, offset, sizes, steps, fields.get("requiresGrad") is True)


def _old_module(archive: ArchiveReader, root: dict[str, object], tensors: list[Tensor | None]) -> Module:
    """Build the modules from the top; JSON cannot hold cycles, and its depth was bounded by the parser."""
    top = Module(Global("__torch__", str(root.get("name", "Module"))[:200]))
    pending: list[tuple[Module, dict[str, object]]] = [(top, root)]
    while pending:
        module, entry = pending.pop()
        parameters, submodules = entry.get("parameters", []), entry.get("submodules", [])
        for part in parameters if isinstance(parameters, list) else ():
            if isinstance(part, dict) and isinstance(part.get("name"), str):
                _add_old_tensor(archive, module, part, tensors)
        for part in submodules if isinstance(submodules, list) else ():
            if isinstance(part, dict) and isinstance(part.get("name"), str):
                child = Module(Global("__torch__", part["name"][:200]))
                module.modules[part["name"]] = child
                pending.append((child, part))
    return top


def _add_old_tensor(
    archive: ArchiveReader, module: Module, part: dict[str, object], tensors: list[Tensor | None]
) -> None:
    index = _whole(part.get("tensorId", 0))
    name = str(part["name"])
    if index is None or index >= len(tensors):
        archive.add(
            "RK-FILE-54",
            "odd-model-json",
            Severity.ERROR,
            f"{name} of model.json is tensor {str(part.get('tensorId'))[:20]}, and there are {len(tensors):,}",
            member="model.json",
            key=name,
        )
        return
    tensor = tensors[index]
    if tensor is None:
        return
    if part.get("isBuffer") is True:
        module.buffers[name] = tensor
    else:
        tensor.parameter = True
        module.parameters[name] = tensor
