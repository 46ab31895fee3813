"""Folders of torch.distributed.checkpoint: each item is an archive of its own, whose checksums torch never compares.

A tensor is put together of the items of many ranks; one of them that was changed makes the whole tensor wrong. Names
and places of the items are in ``.metadata``, which has no checksum: *proven* speaks of the bytes, element types and
shapes of the items.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from zlib import crc32

from rekindle.errors import UnreadableFile
from rekindle.finding import Finding
from rekindle.formats._assembled import Assembled
from rekindle.formats._items import ItemTensor
from rekindle.formats._sources import WindowSource
from rekindle.formats._zip_directory import read_directory
from rekindle.limits import Limits
from rekindle.salvaging import Fate
from rekindle.source import Bytes

__all__ = ["judge_items"]


def judge_items(data: Bytes | None, limits: Limits) -> Fate | None:
    """Return what the checksums of a tensor's items say of it; None where it is not made of items."""
    items = list(_items_of(data))
    if not items:
        return None
    proven = True
    for place, item in items:
        name = f"{os.path.basename(item.source.path)}, byte {item.offset:,}"
        name = f"its item ({name})" if place is None else f"its piece at {list(place)} ({name})"
        try:
            item.tensor()
            agrees, why = _compared(item, limits)
        except UnreadableFile as error:
            return Fate(proven=False, why=f"{name} cannot be read: {error.what}")
        if why:
            return Fate(proven=False, why=f"{name} was changed: {why}", damaged=True)
        proven = proven and agrees
    return Fate(proven=proven)


def _items_of(data: Bytes | None) -> Iterator[tuple[tuple[int, ...] | None, ItemTensor]]:
    if isinstance(data, ItemTensor):
        yield None, data
    elif isinstance(data, Assembled):
        for box in data.boxes:
            item = getattr(box.read, "__self__", None)
            if isinstance(item, ItemTensor):
                yield box.offsets, item


def _compared(item: ItemTensor, limits: Limits) -> tuple[bool, str]:
    """Return (whether every record of an item has the CRC-32 that its directory says, what speaks against it)."""
    found: list[Finding] = []
    window = WindowSource(item.source, item.offset, item.length, item.source.path)
    directory = read_directory(window, limits, found)
    if directory is None:
        return False, ""  # an item without an archive around it has no checksum
    agrees = True
    for record in directory.records:
        if record.data is None:
            return False, f"its record {record.name} is damaged"
        if not record.crc32:
            agrees = agrees and not record.size
            continue
        crc = 0
        for chunk in record.data.chunks():
            crc = crc32(chunk, crc)
        if crc != record.crc32:
            return False, f"CRC-32 of {record.name} is {crc:08x}, written as {record.crc32:08x}"
    return agrees, ""
