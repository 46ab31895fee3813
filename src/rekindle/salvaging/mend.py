"""One wrong byte, found and put right by its CRC-32.

A CRC is linear: the difference between the CRC that was promised and the one that is found depends only on what changed
and on how far from the end. Walked backwards over the data, that difference is, at the place of a single wrong byte,
one of the 256 entries of the CRC's own table. Other damage looks like a single byte in one of `2^24 / length`
cases, so this is for small records whose content has a structure of its own to check, a pickle, and never for tensors.
"""

from __future__ import annotations

from zlib import crc32

__all__ = ["MEND_BYTES_MAX", "mend_one_byte"]

MEND_BYTES_MAX = 512 * 1024
_POLYNOMIAL = 0xEDB88320


def _table() -> tuple[int, ...]:
    rows = []
    for value in range(256):
        row = value
        for _ in range(8):
            row = row >> 1 ^ (_POLYNOMIAL if row & 1 else 0)
        rows.append(row)
    return tuple(rows)


def mend_one_byte(data: bytes, promised: int) -> tuple[bytes, int] | None:
    """Return (the data with the one byte changed that makes its CRC-32 right, where); None where no one byte does.

    Args:
        data: at most `MEND_BYTES_MAX` bytes; longer data is left alone.
        promised: the CRC-32 that it had.
    """
    difference = crc32(data) ^ promised
    if not difference or len(data) > MEND_BYTES_MAX:
        return None
    table = _table()
    by_top = [0] * 256
    for value, row in enumerate(table):
        by_top[row >> 24] = value
    places: list[tuple[int, int]] = []
    for at in range(len(data) - 1, -1, -1):
        value = by_top[difference >> 24]
        if table[value] == difference:
            places.append((at, value))
        difference = ((difference ^ table[value]) << 8 | value) & 0xFFFFFFFF
    if len(places) != 1:
        return None
    at, value = places[0]
    return data[:at] + bytes((data[at] ^ value,)) + data[at + 1 :], at
