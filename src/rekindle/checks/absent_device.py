"""Tensors were saved on a device that this machine does not have."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._case import Case, counted, listed
from rekindle.finding import Finding, Severity, Where

CODE, NAME, SINCE = "RK-FILE-72", "absent-device", "0.1"
WHY = "torch puts each tensor back where it was saved; without map_location, torch.load stops at `{error}`"
DO = '{fix}     (or torch.load({path!r}, map_location="cpu"))'

_NO_CUDA = "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False"
_NO_INDEX = "Attempting to deserialize object on CUDA device {index} but torch.cuda.device_count() is {count}"
_OTHER = "don't know how to restore data location of {device}"


def check(case: Case) -> Iterator[Finding]:
    """Compare the devices in the file with those of the machine."""
    counts: dict[str, int] = {}
    for entry in case.opened.table:
        if not _is_here(entry.storage.device, case):
            counts[entry.storage.device] = counts.get(entry.storage.device, 0) + 1
    if not counts:
        return
    devices = sorted(counts)
    kind, index = _parts(devices[0])
    if kind != "cuda":
        error = _OTHER.format(device=devices[0])
    elif case.devices.get("cuda", 0):
        error = _NO_INDEX.format(index=index, count=case.devices["cuda"])
    else:
        error = _NO_CUDA
    key = next(entry.key for entry in case.opened.table if entry.storage.device == devices[0])
    total = sum(counts.values())
    yield Finding(
        CODE,
        NAME,
        Severity.WARNING,
        f"{counted(total, 'tensor', 'was', 'were')} saved on {listed(devices)}, which this machine does not have",
        why=WHY.format(error=error),
        do=DO.format(fix=case.fix, path=case.opened.path),
        where=Where(key=key),
    )


def _is_here(device: str, case: Case) -> bool:
    kind, index = _parts(device)
    return kind == "meta" or index < case.devices.get(kind, 0)


def _parts(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    return kind, int(index) if index.isascii() and index.isdigit() and len(index) < 6 else 0
