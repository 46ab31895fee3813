"""Streams inside a pickle: ``torch.storage._load_from_bytes(bytes)``, how a tensor is pickled without `torch.save`.

The argument is a complete old torch stream, with a storage or any object in it. It is read by the same reader, at most
four levels deep; deeper ones, and what is no stream, stay records of the call.
"""

from __future__ import annotations

from collections.abc import Callable

from rekindle.finding import Finding
from rekindle.limits import Limits
from rekindle.source import MemorySource
from rekindle.tree import Value

__all__ = ["nested_reader"]

_DEPTH = 4


def nested_reader(limits: Limits, findings: list[Finding], depth: int = 0) -> Callable[[bytes], Value] | None:
    """Return what reads the streams inside one program; None where programs lie too deep in each other.

    Args:
        limits: caps.
        findings: where what is wrong with a stream goes.
        depth: how many streams the program itself is inside of.
    """
    if depth >= _DEPTH:
        return None
    count = 0

    def read(payload: bytes) -> Value:
        nonlocal count
        from rekindle.formats.torch_stream import is_stream, read_stream  # noqa: PLC0415 - they call each other

        if not is_stream(payload[:64]):
            return None
        count += 1
        # Keys are unique within one stream only.
        name = f"nested{depth}.{count}"
        stream = read_stream(MemorySource(payload, name), limits, depth + 1, prefix=f"{name}.")
        findings.extend(stream.findings)
        return stream.tree if stream.listed else None

    return read
