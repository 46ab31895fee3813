"""Exported programs: the ``.pt2`` archive of `torch.export.save`.

The weights are records of raw bytes (whole storages), a JSON table beside them says which tensor is what part of which
record; two tensors on one record share memory. Weights that are tensor subclasses, and custom objects, are pickles of
their own: read as symbols here, though torch runs them. Constants (lifted tensors, buffers that are not persistent)
have a second table; they are listed behind the weights and are no part of the state dict. The graph in
``models/*.json`` is only looked at for its versions.

Older archives hold the state dict as one `torch.save` file: ``data/weights/<model>.pt``, or
``serialized_state_dict.pt`` (named ``.json`` at first, though it never was) beside the graph.

Facts: PyTorch 2.13 `torch/export/pt2_archive/_package.py`, `torch/_export/serde/schema.py`; 2.1 and 2.5
`torch/export/__init__.py` (older layouts).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from rekindle.errors import UnreadableFile
from rekindle.finding import Finding, Severity
from rekindle.formats._archive_storages import ArchiveReader, directory_of, nested_value, record_names, root_where
from rekindle.formats._values import count_of
from rekindle.formats._zip_directory import Directory, inflate
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import ByteRange, Source
from rekindle.tensors import DTYPES, TensorTable, span_of
from rekindle.tree import Map, SparseTensor, Tensor, Value

__all__ = ["NAME", "is_archive", "read", "read_archive"]

NAME = "torch-export"

# torch's numbers for element types (`ScalarType` in the schema).
_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}
_STRIDED = 7

_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_WEIGHTS_CONFIG, _CONSTANTS_CONFIG = "_weights_config.json", "_constants_config.json"
_OLD_WEIGHTS = ("serialized_state_dict.pt", "serialized_state_dict.json")
_OLD_CONSTANTS = ("serialized_constants.pt", "serialized_tensor_constants.pt", "serialized_constants.json")
_TAIL_BYTES = 256 * 1024


def is_archive(names: set[str]) -> bool:
    """Tell whether these are the records (without the folder around them) of an exported program."""
    return (
        "archive_format" in names
        or "serialized_exported_program.json" in names
        or any(name.startswith(_WEIGHTS) and name.endswith((".json", ".pt")) for name in names)
    )


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read an archive that is known to be an exported program; see `read_archive`.

    Raises:
        UnreadableFile: it has no directory.
    """
    findings: list[Finding] = []
    return read_archive(source, directory_of(source, limits, findings), limits, findings)


def read_archive(source: Source, directory: Directory, limits: Limits, findings: list[Finding]) -> Opened:
    """Read the tables; the weights stay where they are.

    Args:
        source: the open file.
        directory: of the archive, read already.
        limits: caps.
        findings: what was found so far; more is added.

    Returns:
        The state dict of the only model, or one per model by its name.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    from rekindle.listing import table_of  # noqa: PLC0415

    root = root_where(record_names(directory), is_archive) or ""
    archive = ArchiveReader(source, directory, root, limits, findings)
    models = _models(archive)
    weights: list[tuple[Value, Value]] = []
    constants: list[tuple[Value, Value]] = []
    listed = bool(models)
    for model in models:
        state, readable = _read_state(archive, model, _WEIGHTS, _WEIGHTS_CONFIG, _OLD_WEIGHTS)
        listed = listed and readable
        weights.append((model, state))
        constants.append((model, _read_state(archive, model, _CONSTANTS, _CONSTANTS_CONFIG, _OLD_CONSTANTS)[0]))
    if not models:
        archive.add(
            "RK-FILE-53",
            "odd-export-archive",
            Severity.ERROR,
            f"{source.path}: an exported program without a table of weights",
            "the archive was cut or packed again without it; one that holds only compiled code has none",
            do=f"in PyTorch: torch.export.load({source.path!r})",
        )
    tree: Value = weights[0][1] if len(weights) == 1 else Map(weights)
    extra: Value = constants[0][1] if len(constants) == 1 else Map(constants)
    table, found = table_of(tree, limits)
    findings.extend(found)
    table = _with_constants(table, extra, limits, archive)
    _report_unread(archive)
    return Opened(
        source.path,
        NAME,
        source.size,
        tree,
        table,
        tuple(findings),
        archive.members(),
        _facts(archive, models),
        source.close,
        listed=listed,
    )


def _models(archive: ArchiveReader) -> list[str]:
    """Return the names of the models, in the order of the archive."""
    names: dict[str, None] = {}
    for record in archive.records:
        if record.startswith(_WEIGHTS) and record.endswith(_WEIGHTS_CONFIG):
            names[record[len(_WEIGHTS) : -len(_WEIGHTS_CONFIG)]] = None
        elif record.startswith(_WEIGHTS) and record.endswith(".pt") and record.count("/") == 2:
            names[record[len(_WEIGHTS) : -3]] = None
        elif record in _OLD_WEIGHTS:
            names["model"] = None
    return list(names)


def _read_state(
    archive: ArchiveReader, model: str, folder: str, config: str, old_names: tuple[str, ...]
) -> tuple[Map, bool]:
    """Return (key -> tensor, whether the description could be read) of a model's weights or constants."""
    if (name := f"{folder}{model}{config}") in archive.records:
        return _read_config(archive, folder, name)
    for name in (f"{folder}{model}.pt", *old_names):
        if name in archive.records:
            value, readable = nested_value(archive, name)
            return (value if isinstance(value, Map) else Map([(model, value)] if readable else [])), readable
    return Map([], "OrderedDict"), False


def _read_config(archive: ArchiveReader, folder: str, name: str) -> tuple[Map, bool]:
    record = archive.records[name]
    config: object = None
    try:
        if record.data is not None:
            config = json.loads(inflate(record.data, archive.limits.header_bytes, name))
    except (ValueError, RecursionError, UnreadableFile) as error:
        archive.add(
            "RK-FILE-53",
            "odd-export-archive",
            Severity.ERROR,
            f"{name} is not the JSON that it should be: {str(error)[:120]}",
            "the file was overwritten, or another program wrote it wrongly",
            member=name,
        )
        return Map([], "OrderedDict"), False
    table = config.get("config") if isinstance(config, dict) else None
    if not isinstance(table, dict) or len(table) > archive.limits.members:
        archive.add("RK-FILE-53", "odd-export-archive", Severity.ERROR, f"{name} has no table of tensors", member=name)
        return Map([], "OrderedDict"), False
    pairs: list[tuple[Value, Value]] = []
    for key, entry in table.items():
        value = _read_entry(archive, folder, key, entry)
        if value is not None:
            pairs.append((key, value))
    return Map(pairs, "OrderedDict"), True


def _read_entry(archive: ArchiveReader, folder: str, key: str, entry: object) -> Value:
    """Return one tensor of a table; None (and a finding) where it is not described as torch does."""
    fields = entry if isinstance(entry, dict) else {}
    path = fields.get("path_name")
    if not isinstance(path, str) or folder + path not in archive.records:
        _odd(archive, key, f"its record {str(path)[:80]!r} is not in the archive")
        return None
    if fields.get("use_pickle") is True:
        return _read_pickled(archive, folder + path, key, is_parameter=fields.get("is_param") is True)
    meta = _read_meta(fields.get("tensor_meta"), archive.limits)
    if isinstance(meta, str):
        _odd(archive, key, meta)
        return None
    # A record holds a whole storage; `tensor_meta` says which part of it this tensor is.
    reach = span_of(meta.shape, meta.stride)
    wanted = (meta.offset + reach) * DTYPES[meta.dtype].itemsize if reach else 0
    storage = archive.storage(folder + path, wanted, meta.device)
    tensor = Tensor(storage, meta.dtype, meta.offset, meta.shape, meta.stride, meta.requires_grad)
    tensor.parameter = fields.get("is_param") is True
    return tensor


def _read_pickled(archive: ArchiveReader, name: str, key: str, *, is_parameter: bool) -> Value:
    value, readable = nested_value(archive, name)
    if not readable:
        _odd(archive, key, f"its record {name} cannot be read")
        return None
    if isinstance(value, Tensor):
        value.parameter = value.parameter or is_parameter
    elif not isinstance(value, SparseTensor):
        archive.add(
            "RK-FILE-51",
            "not-listed",
            Severity.NOTE,
            f"{key} is an object, not a tensor; it is kept as what the file would have called",
            "torch rebuilds it by running the pickle in this record; rekindle never does",
            member=name,
            key=key,
        )
    return value


def _odd(archive: ArchiveReader, key: str, what: str) -> None:
    archive.add(
        "RK-FILE-53",
        "odd-export-archive",
        Severity.ERROR,
        f"{key}: {what}; it is not listed",
        "the table of weights was changed or damaged",
        key=key,
    )


@dataclass(frozen=True, slots=True)
class _Meta:
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    device: str
    requires_grad: bool


def _read_meta(meta: object, limits: Limits) -> _Meta | str:
    """Return a tensor's description, or what is wrong with it."""
    if not isinstance(meta, dict):
        return "it has no description"
    number = meta.get("dtype")
    dtype = _DTYPES.get(number) if type(number) is int else None
    if dtype is None:
        return f"element type {str(number)[:40]} is none that rekindle knows"
    if meta.get("layout") != _STRIDED:
        return f"memory layout {str(meta.get('layout'))[:40]} is none that is stored as raw bytes"
    shape, stride = _numbers(meta.get("sizes"), limits), _numbers(meta.get("strides"), limits)
    offset = _number(meta.get("storage_offset"))
    if shape is None or stride is None or offset is None or len(shape) != len(stride):
        return "its sizes, strides or offset are no numbers that belong together"
    device = meta.get("device")
    kind, index = (device.get("type"), device.get("index")) if isinstance(device, dict) else (None, None)
    name = kind[:80] if isinstance(kind, str) else "cpu"
    return _Meta(
        dtype,
        shape,
        stride,
        offset,
        f"{name}:{index}" if type(index) is int else name,
        meta.get("requires_grad") is True,
    )


def _numbers(value: object, limits: Limits) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > limits.tensor_dims:
        return None
    numbers = [_number(part) for part in value]
    return None if None in numbers else tuple(number for number in numbers if number is not None)


def _number(value: object) -> int | None:
    """Return a number of the schema: ``{"as_int": 3}``, or a symbol with the value it had when it was traced."""
    if not isinstance(value, dict):
        return None
    if "as_int" in value:
        return count_of(value["as_int"])
    expression = value.get("as_expr")
    hint = expression.get("hint") if isinstance(expression, dict) else None
    return count_of(hint.get("as_int")) if isinstance(hint, dict) else None


def _with_constants(table: TensorTable, constants: Value, limits: Limits, archive: ArchiveReader) -> TensorTable:
    from rekindle.listing import table_of  # noqa: PLC0415

    entries = [entry for entry in table_of(constants, limits)[0] if entry.key not in table]
    if not entries:
        return table
    shown = ", ".join(entry.key for entry in entries[:4]) + (" and more" if len(entries) > 4 else "")
    archive.add(
        "RK-FILE-56",
        "outside-state-dict",
        Severity.NOTE,
        f"{len(entries):,} constants of the program ({shown}) are listed behind the weights",
        "they are no part of the state dict: buffers that are not persistent, and tensors that the code holds",
    )
    return TensorTable([*table, *entries])


def _report_unread(archive: ArchiveReader) -> None:
    """Say which records hold something that is not listed."""
    groups = (
        ("data/sample_inputs/", "example inputs", "they are no weights; each record is a torch.save file"),
        ("data/aotinductor/", "compiled code", "it is machine code for one kind of device"),
        ("executorch/", "an ExecuTorch program", "its weights lie inside it in a form of their own"),
        ("xl_model_weights/", "weights of a compiled model", "they have a table of their own, which is not read"),
    )
    for prefix, what, why in groups:
        found = [record for name, record in archive.records.items() if name.startswith(prefix) and record.size]
        if found:
            archive.add(
                "RK-FILE-51",
                "not-listed",
                Severity.NOTE,
                f"{prefix} holds {what} ({sum(r.size for r in found):,} bytes in {len(found):,} records), not listed",
                why,
                member=found[0].name,
            )
    used = set(archive.storages)
    spare = [
        name
        for name, record in archive.records.items()
        if name.startswith((_WEIGHTS + "weight_", _CONSTANTS + "tensor_")) and name not in used and record.size
    ]
    if spare and used:
        archive.add(
            "RK-FILE-29",
            "unreferenced-storage",
            Severity.NOTE,
            f"{len(spare):,} records of weights belong to no tensor of a table, the first is {spare[0]}",
            "compiled models refer to them, or the table was edited",
            member=spare[0],
        )


def _facts(archive: ArchiveReader, models: list[str]) -> dict[str, object]:
    facts: dict[str, object] = {"byteorder": archive.byteorder, "models": list(models)}
    for fact, names in (
        ("archive_version", ("archive_version",)),
        ("version", (".data/version", "version")),
        ("serialization_id", (".data/serialization_id",)),
    ):
        text = next((text for name in names if (text := archive.text(name, 4096)) is not None), None)
        if text is not None:
            facts[fact] = text.strip()
    for model in models:
        version = _schema_version(archive, model)
        if version:
            facts["schema_version"] = version
            break
    return facts


def _schema_version(archive: ArchiveReader, model: str) -> str:
    """Return major and minor version of a graph; empty where they are not found.

    A graph of a large model is many megabytes of JSON; the versions stand behind its nodes, near the end.
    """
    for name in (f"models/{model}.json", "serialized_exported_program.json"):
        record = archive.records.get(name)
        if record is None or not isinstance(record.data, ByteRange):
            continue
        length = min(record.size, _TAIL_BYTES)
        tail = record.data.sub(record.size - length, length).read()
        found = re.findall(rb'"schema_version":\s*\{"major":\s*(\d{1,6}),\s*"minor":\s*(\d{1,6})\}', tail)
        if found:
            return f"{found[-1][0].decode()}.{found[-1][1].decode()}"
    return ""
