"""Writing what was chosen: a container's tensors in its order, with the CRC of each storage compared on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rekindle.converting.job import Job
from rekindle.converting.notes import (
    lose_values,
    report_copies,
    report_devices,
    report_modules,
    report_old_torch,
)
from rekindle.converting.result import Lost, Written
from rekindle.converting.streams import Checked, Placed, lent, place_of
from rekindle.errors import CannotWrite
from rekindle.gather import gather
from rekindle.tensors import Storage, TensorEntry
from rekindle.writers.pipe import Pipe, Span
from rekindle.writers.safetensors import NamedTensor, why_not, write_tensors
from rekindle.writers.sharing import dragged_storages

if TYPE_CHECKING:
    from rekindle.writers.pickle_program import Program, StoredStorage

__all__ = ["plan"]


def plan(job: Job) -> tuple[int, Callable[[Pipe], None]]:
    """Return the bytes of the tensors to write, and what writes the file."""
    if job.container == "safetensors":
        tensors = _flat_tensors(job)
        metadata = _metadata(job)

        def emit(out: Pipe) -> None:
            placed = [
                replace(tensor, data=Placed(tensor.key, tensor.data, out, job.places_of_keys)) for tensor in tensors
            ]
            write_tensors(placed, out, metadata)

        return sum(tensor.data.size for tensor in tensors), emit
    program = _program(job)

    def emit_program(out: Pipe) -> None:
        _write_program(job, program, out)

    return sum(storage.data.size for storage in program.storages), emit_program


def _program(job: Job) -> Program:
    from rekindle.writers.pickle_program import program_of  # noqa: PLC0415 - not for safetensors

    report_modules(job)
    program = program_of(job.tree, stream=job.container == "torch-stream", unfit=job.lose)
    for stored in program.storages:
        if stored.data is not stored.storage.data:  # swapped on the way: its CRC is not that of the source
            job.check_storage(stored.storage)
    report_old_torch(job)
    report_devices(job)
    for dragged in dragged_storages(job.tree):
        job.note(
            "dragged-storage",
            f"{dragged.storage.size_bytes:,} bytes of storage {dragged.storage.id} go over for a view of "
            f"{dragged.used_bytes:,}",
            why="a view shares the storage of the tensor it was cut from, and a storage is written whole",
            do=f"rekindle convert {job.source} {job.target} --untie",
        )
    metadata = job.opened.facts.get("metadata")
    if isinstance(metadata, Mapping):
        for name, text in metadata.items():
            if (name, text) != ("format", "pt"):
                job.lost.append(Lost(f"__metadata__.{name}", "torch's containers have no place for this text"))
    return program


def _write_program(job: Job, program: Program, out: Pipe) -> None:
    """Write a torch container, comparing each storage's CRC with what the source promised."""
    by_key = {storage.key: storage for storage in program.storages}
    spans = tuple(replace(storage, data=Span(lent(storage.data, out), out)) for storage in program.storages)
    program = replace(program, storages=spans)
    if job.container == "torch-zip":
        from rekindle.writers import torch_zip  # noqa: PLC0415

        for record in torch_zip.write_program(program, out):
            folder, _, key = record.name.partition("/data/")
            if folder == "archive" and key in by_key:
                _compare(job, by_key[key], record.crc32, record.data_offset)
    else:
        from rekindle.writers import torch_stream  # noqa: PLC0415

        for storage, crc in torch_stream.write_program(program, out):
            _compare(job, by_key[storage.key], crc, out.done - storage.data.size)


def _compare(job: Job, stored: StoredStorage, crc: int, place: int) -> None:
    """Compare the CRC of a storage that was just written, and note where it was put."""
    storage = stored.storage
    promised = job.promised.get(place_of(storage.data))
    if promised is not None and stored.data is storage.data:
        Checked(storage.data, job.source, *promised).compare(crc)
    job.places[id(storage)] = (storage, place, crc)


def _flat_tensors(job: Job) -> list[NamedTensor]:
    """Return the tensors of a flat file; what it cannot hold is lost."""
    report_modules(job)
    tensors = []
    unchecked: dict[int, Storage] = {}
    checked: set[int] = set()
    for entry in job.table:
        reason = _why_not_flat(entry)
        if reason:
            job.lost.append(Lost(entry.key, reason, is_tensor=True))
            continue
        data = gather(entry, conj=entry.conj, neg=entry.neg)
        promised = job.promised.get(place_of(entry.storage.data))
        if promised is not None and id(entry.storage) not in checked:
            if data is entry.storage.data:  # it is streamed whole: its CRC is computed on the way
                checked.add(id(entry.storage))
                data = Checked(data, job.source, *promised)
            else:
                unchecked[id(entry.storage)] = entry.storage
        tensors.append(NamedTensor(entry.key, entry.dtype, entry.shape, data))
        job.written.append(Written(entry.key, entry.dtype, entry.shape))
    for key, storage in unchecked.items():
        if key not in checked:
            job.check_storage(storage)
    if not tensors:
        raise CannotWrite(
            f"{job.source}: nothing in it can be written as safetensors",
            why=job.lost[0].why if job.lost else "it holds no tensors",
            do=f"rekindle convert {job.source} {os.path.splitext(job.target)[0]}.pth",
        )
    lose_values(job)
    report_copies(job, tensors)
    return tensors


def _metadata(job: Job) -> Mapping[str, str]:
    kept = job.opened.facts.get("metadata")
    found = {str(name): str(text) for name, text in kept.items()} if isinstance(kept, Mapping) else {}
    return {"format": "pt", **found}


def _why_not_flat(entry: TensorEntry) -> str:
    if entry.layout == "storage":
        return "a bare storage without a tensor; safetensors holds tensors only"
    if entry.layout != "strided":
        return f"a part of a {entry.layout} tensor; safetensors holds plain tensors only"
    if entry.storage.data is None and entry.numel:
        return "it has no values (meta device)" if entry.storage.device == "meta" else "its storage has no bytes"
    return why_not(entry.dtype)
