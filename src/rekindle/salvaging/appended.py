"""safetensors files with archives in front of their header, as torch's Hugging Face checkpoint writer makes them.

Given a value that is no tensor (param groups, an epoch), `HuggingFaceStorageWriter` of torch 2.5 to 2.15 writes a
`torch.save` archive per value into the file and puts the header and the tensors behind them; it reports success, and
nothing can open the file. The header begins where the last archive ends.
"""

from __future__ import annotations

from rekindle.finding import Finding, Severity, Where
from rekindle.formats import safetensors
from rekindle.formats._sources import WindowSource, at_base
from rekindle.limits import Limits
from rekindle.salvaging import Wreck
from rekindle.salvaging.zip_scan import find_headers
from rekindle.source import Source
from rekindle.tree import Tensor, distinct_nodes

__all__ = ["explore", "find_header"]


def find_header(source: Source, limits: Limits) -> tuple[int, int] | None:
    """Return (where the header begins, how many archives stand in front of it); None where there is none.

    The whole file is read once.
    """
    if source.head(4) != b"PK\x03\x04":
        return None
    ends = sorted(find_headers(source, limits).ends)
    for count, end in enumerate(ends, 1):
        if end + 9 > source.size:
            return None
        part = WindowSource(source, end, source.size - end, source.path)
        if part.read(8, 1) == b"{" and safetensors.sniff(part.head(4096), part):
            return end, count
    return None


def explore(source: Source, limits: Limits) -> Wreck | None:
    """Return the tensors behind the archives; None where a file is not of this kind."""
    found = find_header(source, limits)
    if found is None:
        return None
    from rekindle.salvaging import safetensors as flat  # noqa: PLC0415 - rare

    at, count = found
    wreck = flat.explore(WindowSource(source, at, source.size - at, source.path), limits)
    if wreck is None:
        return None
    for node in distinct_nodes(wreck.tree):
        if isinstance(node, Tensor):
            node.storage.data = at_base(node.storage.data)
    wreck.size_bytes = source.size
    wreck.findings.append(
        Finding(
            "RK-SALV-09",
            "objects-in-front",
            Severity.WARNING,
            f"{count:,} objects that are no tensors stand in front of the header at byte {at:,}; they are left out",
            why="HuggingFaceStorageWriter of torch was given them: it reports success, and nothing opens the file",
            where=Where(offset=at),
        )
    )
    return wreck
