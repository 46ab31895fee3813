"""Models cut into files as Hugging Face does: an index that says which tensor lies in which file.

``model.safetensors.index.json`` (or ``pytorch_model.bin.index.json``, and the same for other names) holds
``weight_map``, key -> file, and ``metadata.total_size``. The index is believed in nothing: every file is opened and its
own list of tensors counts; what the index says otherwise is a finding. Without an index, files named
``...-00001-of-00003...`` belong together, and a folder with a single ``model.safetensors`` or ``pytorch_model.bin`` is
read as that file.

Facts: huggingface_hub 0.30 `serialization/_base.py` (names, index), transformers `modeling_utils.py`.
"""

from __future__ import annotations

import json
import os
import re

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Severity
from rekindle.formats._folders import Folder, cut_list, is_plain_name, opened_folder
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import Source
from rekindle.tensors import TensorEntry, TensorTable
from rekindle.tree import Map, Module, Value

__all__ = ["NAME", "read", "read_folder", "sniff", "sniff_folder"]

NAME = "hub-shards"

_INDEX_END = ".index.json"
_SHARD = re.compile(r"^(?!shard-)(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin|pt|pth)$")
_SINGLE = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors", "adapter_model.safetensors")
# A folder with more files than this is not searched for shards.
_MAX_FILES = 100_000


def sniff(head: bytes, source: Source) -> bool:
    """Tell whether a file is an index: JSON with a weight map."""
    if not head.lstrip(b" \t\r\n").startswith(b"{"):
        return False
    return b'"weight_map"' in head or (source.path.endswith(_INDEX_END) and b'"metadata"' in head)


def sniff_folder(path: str) -> bool:
    """Tell whether a folder has an index, several shards, or one file with a name of these."""
    names = _names(path)
    return bool(_indexes(names) or _series(names) or any(name in names for name in _SINGLE))


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read an index and the shards that lie beside it.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    path, name = os.path.split(source.path)
    source.close()
    return _read(path or ".", name, limits, given=source.path)


def read_folder(path: str, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read the shards of a folder, by its index where it has one.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    indexes = _indexes(_names(path))
    return _read(path, indexes[0] if indexes else None, limits, given=path)


def _names(path: str) -> list[str]:
    names: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) >= _MAX_FILES:
                break
    return sorted(names)


def _indexes(names: list[str]) -> list[str]:
    """Return the names of indexes, the one to take first: safetensors before pickles, whole words before variants."""
    found = [name for name in names if name.endswith(_INDEX_END)]
    return sorted(found, key=lambda name: ("safetensors" not in name, name.count("."), name))


def _series(names: list[str]) -> list[list[str]]:
    """Return the files that belong together by their numbers, the group to take first."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        found = _SHARD.match(name)
        if found:
            groups.setdefault((found[1], found[3], found[4]), []).append(name)
    order = sorted(groups, key=lambda key: (key[2] != "safetensors", key))
    return [groups[key] for key in order]


def _read(path: str, index: str | None, limits: Limits, *, given: str) -> Opened:
    with Folder(path, limits) as folder:
        facts: dict[str, object] = {}
        names = _names(path)
        weight_map: dict[str, str] = {}
        readable = True
        if index is not None:
            weight_map, total = _read_index(folder, index, facts)
            readable = total is not None
            _report_other_indexes(folder, index, names)
        shards = _shards(folder, names, weight_map)
        facts["shards"] = [name for name in shards if is_plain_name(name, limits)]
        entries, pairs, found_in = _read_shards(folder, shards, weight_map)
        if readable and index is not None:
            _compare(folder, index, weight_map, found_in)
            absent = {key: file for key, file in weight_map.items() if key not in found_in}
            if absent:
                facts["absent"] = absent
            if set(weight_map.values()) <= set(found_in.values()):
                _compare_size(folder, index, facts, entries)
        opened = opened_folder(
            folder, NAME, Map(pairs, "OrderedDict"), TensorTable(entries), facts, listed=readable and bool(found_in)
        )
        return opened if given == path else _named(opened, given)


def _named(opened: Opened, path: str) -> Opened:
    from dataclasses import replace  # noqa: PLC0415

    return replace(opened, path=path)


def _read_index(folder: Folder, name: str, facts: dict[str, object]) -> tuple[dict[str, str], bool | None]:
    """Return (key -> file, True); (empty, None), with a finding, where the index cannot be read."""
    source = folder.source(name)
    if source is None:
        return {}, None
    if source.size > folder.limits.header_bytes:
        raise LimitExceeded(
            f"{source.path}: an index of {source.size:,} bytes",
            why=f"reading is bounded by Limits.header_bytes = {folder.limits.header_bytes:,}",
            do="raise Limits.header_bytes if you trust this file",
        )
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                repeated.append(key)
            found[key] = value
        return found

    problem = ""
    index: object = None
    try:
        index = json.loads(source.read(0, source.size).decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        problem = "it is nested too deeply"
    except (ValueError, UnreadableFile) as error:
        problem = str(error)[:120]
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not problem and not isinstance(weight_map, dict):
        problem = "it has no weight_map"
    if not problem and isinstance(weight_map, dict) and not all(type(file) is str for file in weight_map.values()):
        problem = "its weight_map has values that are no names of files"
    if problem or not isinstance(weight_map, dict):
        folder.add(
            "RK-FILE-44",
            "broken-index",
            Severity.ERROR,
            f"{name}: {problem}",
            "the file was cut short, or edited by hand",
            "get the index again from its source",
            member=name,
        )
        return {}, None
    if len(weight_map) > folder.limits.members:
        raise LimitExceeded(
            f"{source.path}: {len(weight_map):,} tensors in one index",
            why=f"reading is bounded by Limits.members = {folder.limits.members:,}",
            do="raise Limits.members if you trust this file",
        )
    for key in repeated[:16]:
        folder.add(
            "RK-FILE-26",
            "duplicate-key",
            Severity.ERROR,
            f"{name} names {key!r} twice; readers differ in which one they take",
            "the program that wrote it did not check its names",
            member=name,
            key=key,
        )
    metadata = index.get("metadata") if isinstance(index, dict) else None
    if isinstance(metadata, dict):
        facts["metadata"] = metadata
    facts["index"] = name
    return weight_map, True


def _report_other_indexes(folder: Folder, index: str, names: list[str]) -> None:
    others = [name for name in _indexes(names) if name != index]
    if others:
        folder.add(
            "RK-FILE-51",
            "not-listed",
            Severity.NOTE,
            f"the folder has other indexes ({cut_list(others)}); {index} is read",
            "the same model in another container or variant, as a rule",
            f"rekindle inspect {os.path.join(folder.path, others[0])}",
            member=others[0],
        )


def _shards(folder: Folder, names: list[str], weight_map: dict[str, str]) -> list[str]:
    """Return the files to read, in order, and name those that are missing."""
    if weight_map:
        wanted = list(dict.fromkeys(weight_map.values()))
    else:
        series = _series(names)
        wanted = _complete(series[0]) if series else [name for name in _SINGLE if name in names][:1]
    # What the index does not name, but its numbers say belongs to it.
    known = {match[1] + match[4] for name in wanted if (match := _SHARD.match(name))}
    spare = [
        name
        for name in names
        if (match := _SHARD.match(name)) and match[1] + match[4] in known and name not in set(wanted)
    ]
    if spare:
        folder.add(
            "RK-FILE-41",
            "index-disagrees",
            Severity.WARNING,
            f"{cut_list(spare)} lies beside the shards and no entry of the index names it; it is not read",
            "an older save with another number of shards was not removed, or the index is stale",
            member=spare[0],
        )
    missing = [name for name in wanted if is_plain_name(name, folder.limits) and not folder.exists(name)]
    if missing:
        lost = sum(1 for file in weight_map.values() if file in set(missing))
        folder.add(
            "RK-FILE-40",
            "missing-shard",
            Severity.ERROR,
            f"{len(missing):,} of {len(wanted):,} shards are missing: {cut_list(missing)}"
            + (f"; {lost:,} of {len(weight_map):,} tensors lie in them" if lost else ""),
            "the download or the save stopped early, or files were left out when the folder was copied",
            "download or copy them again; loaders that go on without them fill the gaps with random numbers",
            member=missing[0],
        )
    return [name for name in wanted if name not in set(missing)]


def _complete(series: list[str]) -> list[str]:
    """Return all names of a series from the numbers in those that are there."""
    found = _SHARD.match(series[0])
    if found is None:
        return series
    count = int(found[3])
    if count > 10 * len(series) + 100:
        return series  # the number in the name is no count
    return [f"{found[1]}-{number:05}-of-{found[3]}.{found[4]}" for number in range(1, count + 1)]


def _read_shards(
    folder: Folder, shards: list[str], weight_map: dict[str, str]
) -> tuple[list[TensorEntry], list[tuple[Value, Value]], dict[str, str]]:
    """Return the entries, the pairs of the state dict, and key -> file of all tensors that are really there.

    The order is that of the files; a key that two files have is taken from the one that the index names.
    """
    from rekindle.listing import state_dict_of, table_of  # noqa: PLC0415

    tables: list[tuple[str, dict[str, Value]]] = []
    for name in shards:
        opened = folder.open(name)
        if opened is None:
            continue
        if not opened.listed:
            continue
        tree = state_dict_of(opened.tree) if isinstance(opened.tree, (Map, Module)) else Map([(name, opened.tree)])
        tables.append((name, {key: value for key, value in tree.pairs if isinstance(key, str)}))
    found_in: dict[str, str] = {}
    twice: list[str] = []
    for name, values in tables:
        for key in values:
            if key in found_in:
                twice.append(key)
                if weight_map.get(key) != name:
                    continue
            found_in[key] = name
    if twice:
        folder.add(
            "RK-FILE-42",
            "duplicate-shard-key",
            Severity.WARNING,
            f"{len(twice):,} tensors lie in more than one shard: {cut_list(twice)}",
            "shards of two saves were mixed; the one that the index names is listed, else the first",
            key=twice[0],
        )
    pairs: list[tuple[Value, Value]] = [
        (key, value) for name, values in tables for key, value in values.items() if found_in[key] == name
    ]
    table, found = table_of(Map(pairs), folder.limits)
    folder.findings.extend(found)
    return list(table), pairs, found_in


def _compare(folder: Folder, index: str, weight_map: dict[str, str], found_in: dict[str, str]) -> None:
    """Report where the index and the files disagree, for files that could be read."""
    readable = set(found_in.values())
    absent = [key for key, file in weight_map.items() if file in readable and key not in found_in]
    elsewhere = [key for key, file in weight_map.items() if key in found_in and found_in[key] != file]
    unnamed = [key for key in found_in if key not in weight_map]
    for keys, what, why in (
        (absent, "are in no file", "the index is of another save, or the shards were changed after it"),
        (elsewhere, "lie in another file than it says", "the index is of another save"),
        (unnamed, "are in the files and not in the index", "the index is stale; loaders that go by it never see them"),
    ):
        if keys:
            folder.add(
                "RK-FILE-41",
                "index-disagrees",
                Severity.ERROR if keys is not unnamed else Severity.WARNING,
                f"{index}: {len(keys):,} of its tensors {what}: {cut_list(keys)}"
                if keys is not unnamed
                else f"{len(keys):,} tensors {what}: {cut_list(keys)}",
                why,
                "get index and shards from the same save",
                member=index,
                key=keys[0],
            )


def _compare_size(folder: Folder, index: str, facts: dict[str, object], entries: list[TensorEntry]) -> None:
    metadata = facts.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(total, (int, float)) or isinstance(total, bool):
        return
    # Each storage once: tied tensors of a pickle are counted once by those who write the index.
    storages = {entry.storage.id: entry.storage.size_bytes for entry in entries}
    sizes = {sum(storages.values()), sum(entry.size_bytes for entry in entries)}
    if total not in sizes:
        folder.add(
            "RK-FILE-41",
            "index-disagrees",
            Severity.WARNING,
            f"{index}: total_size says {total:,} bytes, the tensors have {max(sizes):,}",
            "the index was written for another element type or save; loaders use the number to plan memory",
            member=index,
        )
