"""The pickle programs that `torch.load` would run in a file, in the order in which it would.

A zip archive has one, ``data.pkl``; a stream has five in a row (magic number, protocol, machine, object, keys); a bare
pickle is one. Programs of other containers are not torch's to run.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from rekindle.errors import UnreadableFile
from rekindle.limits import Limits
from rekindle.opened import Opened
from rekindle.source import ByteRange, Source
from rekindle.unpickling.program import Op, read_ops

__all__ = ["Program", "programs_of"]

_WINDOW = 1024**2
_PROGRAMS_OF_A_STREAM = 5


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    Attributes:
        name: of the record, or of what it is in a stream.
        data: bytes that hold it.
        start: its first byte in `data`.
        at: where `data` starts in the file or record, so that an offset in `data` can be told.
    """

    name: str
    data: bytes
    start: int = 0
    at: int = 0


def programs_of(opened: Opened, limits: Limits) -> tuple[Program, ...]:
    """Return the programs; empty where there are none, or where they are broken (the reader says so)."""
    if not opened.listed:
        return ()
    try:
        if opened.format == "torch-zip":
            return _of_archive(opened, limits)
        if opened.format in {"torch-stream", "pickle"}:
            with Source(opened.path) as source:
                return _of_stream(source, limits, 1 if opened.format == "pickle" else _PROGRAMS_OF_A_STREAM)
    except (UnreadableFile, OSError, zlib.error):
        pass
    return ()


def _of_archive(opened: Opened, limits: Limits) -> tuple[Program, ...]:
    root = opened.facts.get("root")
    wanted = f"{root}/data.pkl" if root else "data.pkl"
    for member in opened.members:
        if member.name == wanted and isinstance(member.data, ByteRange) and member.data.size <= limits.pickle_bytes:
            data = member.data.read()
            if not data.endswith(b"."):  # a pickle ends with STOP; what does not was packed by another tool
                data = zlib.decompressobj(-15).decompress(data, limits.pickle_bytes)
            return (Program("data.pkl", data),)
    return ()


_PARTS = ("the magic number", "the protocol number", "the facts about the machine", "the object", "the list of keys")


def _of_stream(source: Source, limits: Limits, count: int) -> tuple[Program, ...]:
    window = _WINDOW
    while True:
        data = source.head(min(window, limits.pickle_bytes))
        try:
            found = []
            start = 0
            for index in range(count):
                last: Op | None = None
                for last in read_ops(data, start, limits):  # noqa: B007 - the last one is wanted
                    pass
                found.append(Program(_PARTS[index] if count > 1 else "the pickle", data, start))
                start = last.end if last is not None else start
            return tuple(found)
        except UnreadableFile:
            if len(data) >= min(source.size, limits.pickle_bytes):
                raise
            window *= 8
