"""The two members of a torch-tar archive (PyTorch up to 0.1.9) in which pickles and raw bytes take turns.

Facts: PyTorch 0.1.9 `torch/serialization.py`: a pickled count, and per row a pickled triple that ends in a class;
behind it, for a storage, an int64 count and the elements; for a tensor, int32 dimensions, 4 bytes of padding, the
sizes, the strides and the offset as int64.
"""

from __future__ import annotations

from rekindle.scanning.programs import follow, report_program
from rekindle.scanning.report import Report, View
from rekindle.tensors import DTYPE_OF_STORAGE
from rekindle.tree import Global

__all__ = ["scan_rows"]


def scan_rows(view: View, report: Report, member: str) -> None:
    """Look at each program of the member ``storages`` or ``tensors``; raw bytes are stepped over."""
    rows, at = 1, 0
    first = True
    while rows and at < view.size:
        found = follow(view, at, report)
        report_program(found, view, at, report)
        if found.problem:
            report.unreadable("RK-SCAN-09", "broken-program", f"{member}: {found.problem}", view.where(at + found.end))
            return
        at += found.end
        rows -= 1
        if first:
            rows, first = (found.value, False) if isinstance(found.value, int) else (0, False)
            continue
        size = _raw_size(view, at, found.value, member)
        if size is None or at + size > view.size:
            report.unreadable(
                "RK-SCAN-09", "broken-program", f"{member}: a row whose size cannot be told", view.where(at)
            )
            return
        at += size
    # The list of views follows the storages.
    while at < view.size:
        found = follow(view, at, report)
        report_program(found, view, at, report)
        if found.problem:
            report.unreadable("RK-SCAN-09", "broken-program", f"{member}: {found.problem}", view.where(at + found.end))
            return
        at += found.end


def _raw_size(view: View, at: int, row: object, member: str) -> int | None:
    if member == "tensors":
        if at + 8 > view.size:
            return None
        dims = int.from_bytes(view.data.read(at, 4), "little")
        return 8 + 16 * dims + 8
    kind = row[2] if isinstance(row, tuple) and len(row) == 3 else None
    dtype = DTYPE_OF_STORAGE.get(kind.name) if isinstance(kind, Global) else None
    if dtype is None or at + 8 > view.size:
        return None
    count = int.from_bytes(view.data.read(at, 8), "little", signed=True)
    return 8 + count * dtype.itemsize if count >= 0 else None
