"""What `torch.save` writes since 1.6: a zip archive of one pickle and one record per storage.

Records are stored, never compressed, and their data starts on multiples of 64 bytes, so that a reader can map them.
Sizes and CRC-32 stand behind each record (a data descriptor) and in the directory, as torch writes them: the bytes
are read once, from start to end, and the CRC is computed on the way. Padding and descriptors follow torch's own
arithmetic to the byte, since torch can compute where storage N lies without reading the directory
(``torch.utils.serialization.config.load.calculate_storage_offsets``). The folder inside is always ``archive``, so that
the same object gives the same bytes under any file name.

Facts: PyTorch 2.13 `caffe2/serialize/inline_container.cc` (`getPadding`, `writeRecord`, `writeSerializationId`),
`torch/serialization.py` (`_save`), `third_party/miniz` (data descriptors, zip64), PKWARE APPNOTE 6.3.9.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from rekindle.source import BufferBytes, Bytes
from rekindle.tree import Value
from rekindle.writers import PIECE_BYTES, Out
from rekindle.writers.pickle_program import Program, Unfit, program_of, refuse

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["WrittenRecord", "write_program", "write_tree"]

_ALIGNMENT = 64
_ROOT = "archive"
_FORMAT_VERSION = b"1"  # layout of the records, as `.format_version` says it
_VERSION = b"3\n"  # version of the file format that torch.save has written since 1.6
_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF
_FLAGS = 0x0808  # sizes and CRC follow the data; names are UTF-8


@dataclass(frozen=True, slots=True)
class WrittenRecord:
    """One record as it lies in the archive.

    Attributes:
        name: with the root folder.
        header_offset: where its local header starts.
        data_offset: where its bytes start.
        size: in bytes.
        crc32: of its bytes.
    """

    name: str
    header_offset: int
    data_offset: int
    size: int
    crc32: int


def write_tree(tree: Value, out: Out, *, unfit: Unfit = refuse) -> None:
    """Write a whole archive that `torch.load` opens, with ``weights_only`` and ``mmap`` on or off.

    Args:
        tree: what to write.
        out: takes the bytes from start to end.
        unfit: called with (path, reason) for what cannot be written; see `program_of`.

    Raises:
        CannotWrite: from `refuse`, before anything is written.
    """
    for _ in write_program(program_of(tree, unfit=unfit), out):
        pass


def write_program(program: Program, out: Out) -> Iterator[WrittenRecord]:
    """Write an archive, and yield each record when it is written; the directory follows after the last.

    The storages' records have the names ``archive/data/<key>``.
    """
    archive = _Archive(out)
    yield archive.record("data.pkl", _bytes(program.pickle))
    yield archive.record(".format_version", _bytes(_FORMAT_VERSION))
    yield archive.record(".storage_alignment", _bytes(b"%d" % _ALIGNMENT))
    yield archive.record("byteorder", _bytes(b"little"))
    for storage in program.storages:
        yield archive.record(f"data/{storage.key}", storage.data)
    yield archive.record("version", _bytes(_VERSION))
    yield archive.record(".data/serialization_id", _bytes(archive.fingerprint()))
    archive.finish()


class _Archive:
    """Holds the position in the output and the records written so far."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._at = 0
        self._records: list[WrittenRecord] = []
        self._crcs = 0  # torch's combination of the CRCs of all records

    def record(self, short_name: str, data: Bytes) -> WrittenRecord:
        name = f"{_ROOT}/{short_name}"
        start, size = self._at, data.size
        header = _local_header(name.encode(), start, size)
        self._write(header)
        data_offset = self._at
        crc = 0
        for chunk in data.chunks(PIECE_BYTES):
            crc = crc32(chunk, crc)
            self._write(chunk)
        if self._at - data_offset != size:
            raise ValueError(f"{name}: {size} bytes were announced, {self._at - data_offset} came")
        if size:
            self._write(_descriptor(crc, start, size))
        record = WrittenRecord(name, start, data_offset, size, crc)
        self._records.append(record)
        if size:  # torch takes the CRC from the descriptor, which an empty record does not have
            # at::hash_combine, over 64 bits
            seed = self._crcs
            self._crcs = (seed ^ (crc + 0x9E3779B9 + (seed << 6) + (seed >> 2))) & 0xFFFFFFFFFFFFFFFF
        return record

    def fingerprint(self) -> bytes:
        """Return forty digits: twenty from the names, twenty from the contents, the latter as torch computes them.

        torch's digits for the names depend on the order of a C++ hash table; nobody can check them, so ours are a
        plain CRC.
        """
        names = crc32("\n".join(record.name for record in self._records).encode())
        return b"%020d%020d" % (names, self._crcs)

    def finish(self) -> None:
        start = self._at
        for record in self._records:
            self._write(_directory_entry(record))
        size, count = self._at - start, len(self._records)
        end64 = self._at
        # torch always writes the zip64 end record; so a reader that knows only that one is content too.
        self._write(struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, size, start))
        self._write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end64, 1))
        self._write(
            struct.pack(
                "<4sHHHHIIH",
                b"PK\x05\x06",
                0,
                0,
                min(count, _MAX16),
                min(count, _MAX16),
                min(size, _MAX32),
                min(start, _MAX32),
                0,
            )
        )

    def _write(self, data: Buffer) -> None:
        self._out.write(data)
        self._at += memoryview(data).nbytes


def _bytes(data: bytes) -> BufferBytes:
    return BufferBytes(memoryview(data))


def _zip64_fields(start: int, size: int, *, directory: bool) -> bytes:
    """Return the zip64 extra field that a record of this place and size needs; empty where 32 bits do."""
    fields = b""
    if size >= _MAX32:
        fields += struct.pack("<QQ", size if directory else 0, size if directory else 0)
    if start >= _MAX32:
        fields += struct.pack("<Q", start)
    return struct.pack("<HH", 1, len(fields)) + fields if fields else b""


def _local_header(name: bytes, start: int, size: int) -> bytes:
    extra = _zip64_fields(start, size, directory=False)
    unpadded = start + 30 + len(name) + len(extra) + 4
    padding = -unpadded % _ALIGNMENT
    extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    zeros = (0,) * 6  # method, time, date, CRC and both sizes
    return struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 0, _FLAGS, *zeros, len(name), len(extra)) + name + extra


def _descriptor(crc: int, start: int, size: int) -> bytes:
    form = "<4sIQQ" if size >= _MAX32 or start >= _MAX32 else "<4sIII"
    return struct.pack(form, b"PK\x07\x08", crc, size, size)


def _directory_entry(record: WrittenRecord) -> bytes:
    name = record.name.encode()
    start, size = record.header_offset, record.size
    extra = _zip64_fields(start, size, directory=True)
    small = min(size, _MAX32)
    return (
        struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\x01\x02",
            0,
            45 if extra else 0,
            _FLAGS,
            0,
            0,
            0,
            record.crc32,
            small,
            small,
            len(name),
            len(extra),
            0,
            0,
            0,
            0,
            min(start, _MAX32),
        )
        + name
        + extra
    )
