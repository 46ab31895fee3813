"""Bytes of a record changed after it was written: its CRC-32 is another one (looked for with `--values`).

torch computes the sum of each record when it saves and never looks at it when it loads.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from rekindle.checks._case import Case, listed
from rekindle.errors import UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.opened import Member
from rekindle.source import ByteRange, Bytes

CODE, NAME, SINCE = "RK-FILE-79", "changed-record", "0.1"
WHY = "bytes changed after the file was written: a bad disk, a bad copy, or an edit; torch.load does not look"
DO = "get the file again from its source"

_SHOWN = 16


def check(case: Case) -> Iterator[Finding]:
    """Compute the CRC-32 of every record that has one and compare."""
    if not case.values:
        return
    # What another tool compressed has the sum of what is inside; those records are read through the tensors.
    compressed = any(finding.name == "compressed-records" for finding in case.opened.findings)
    found = 0
    for member in case.opened.members:
        if not member.crc32 or compressed:
            continue
        crc = _crc(member)
        if crc is None or crc == member.crc32:
            continue
        found += 1
        if found > _SHOWN:
            return
        keys = _keys(case, member.data)
        yield Finding(
            CODE,
            NAME,
            Severity.ERROR,
            f"{f'{listed(keys)} in ' if keys else ''}{member.name}: its CRC-32 is {crc:08x}, the archive says "
            f"{member.crc32:08x}",
            why=WHY,
            do=DO,
            where=Where(member=member.name, key=keys[0] if keys else None),
        )


def _crc(member: Member) -> int | None:
    crc = 0
    try:
        for chunk in member.data.chunks():
            crc = crc32(chunk, crc)
    except UnreadableFile:
        return None
    return crc


def _keys(case: Case, data: Bytes) -> list[str]:
    if not isinstance(data, ByteRange):
        return []
    return [
        entry.key
        for entry in case.opened.table
        if isinstance(entry.storage.data, ByteRange)
        and entry.storage.data.source is data.source
        and entry.storage.data.offset == data.offset
    ]
