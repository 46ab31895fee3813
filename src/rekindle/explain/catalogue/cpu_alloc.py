"""Host memory: more was asked for than there is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from rekindle.explain.catalogue._host import memory, memory_said
from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import product
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event
from rekindle.render import human_bytes

CODE, NAME, SINCE = "RK-MISC-13", "cpu-alloc", "0.2"
TITLE = "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000000 bytes"
RAISES = ("RuntimeError", "OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
NEEDLES = ("DefaultCPUAllocator", "Torch: not enough memory", "Unable to allocate ")
PATTERNS = (
    r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory): you tried to allocate (?P<bytes>\d+) bytes",
    r"Torch: not enough memory: you tried to allocate (?P<giga>\d+) ?GB",
    r"Unable to allocate (?P<size>[\d.]+ [KMGTPE]iB) for an array with shape \((?P<shape>[\d, ]+)\) and data type (?P<dtype>\w+)",
)
OLD = (
    "RuntimeError: $ Torch: not enough memory: you tried to allocate 3GB. Buy new RAM! at ../aten/src/TH/THGeneral.cpp:201",
    "RuntimeError: [enforce fail at CPUAllocator.cpp:64] . DefaultCPUAllocator: not enough memory: you tried to allocate 15728640000 bytes. Buy new RAM!",
    "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 74.5 GiB for an array with shape (100000, 100000) and data type float64",
)
WHY = (
    "One tensor was larger than what the machine (or the limit of the container) has left. Often it is not meant to be: [N, 1]"
    " against [N] makes N x N, and a matrix of all pairs grows with the square of the samples. Else it is the batch, or a whole"
    " data set that is made into one tensor."
)
CHECK = "Bytes divided by the bytes of one number (4 for float32) are the elements that were asked for: which shape gives that? `free -g`; the limit of the container."


def explain(event: Event) -> Iterator[Cause]:
    """The size, live with what the machine has, and the two tensors whose product it is."""
    facts = event.facts
    count = int(facts["bytes"]) if facts.get("bytes") else int(facts["giga"]) * 10**9 if facts.get("giga") else 0
    asked = human_bytes(count) if count else facts["size"]
    host = memory() if event.live else None
    seen = memory_said(host) if host else ""
    met = _pair(event, count)
    outer = f"; {met}" if met else ""
    fix = (
        ["print(a.shape, b.shape)   # in front of the line; a.squeeze(1) or b.unsqueeze(1), if they should be alike"]
        if met
        else []
    )
    fix += [
        "for part in x.split(1024): ...   # in parts; or a smaller batch",
        "torch.float16   # or another dtype with fewer bytes, if it is data that is only stored",
    ]
    if host is not None and host.limit is not None:
        fix.append("#SBATCH --mem=128G   # more for the job; docker run --memory=128g")
    shape = f" (an array of {facts['shape']} {facts['dtype']})" if facts.get("shape") else ""
    yield Cause(
        CODE,
        NAME,
        what=f"{asked} of host memory were asked for at once{shape}",
        why=f"{seen or 'the machine or its limit has less than that'}{outer or '; one huge tensor is often a broadcast of [N, 1] against [N], or all pairs of something'}",
        fix=tuple(fix),
        likelihood="certain",
    )


def _pair(event: Event, count: int) -> str:
    """Say which two tensors of the line give this size when each element of one meets each of the other."""
    if not count:
        return ""
    tensors = tensors_in_line(event)[:6]
    for a, b in [*combinations(tensors, 2), *zip(tensors, tensors, strict=True)]:
        for size in (1, 2, 4, 8, 16):
            if product(a.shape) > 1 and product(b.shape) > 1 and product(a.shape) * product(b.shape) * size == count:
                return f"{a.name} {list(a.shape)} and {b.name} {list(b.shape)} give that size if every element meets every other"
    return ""


EXAMPLE = """
import torch

predictions = torch.zeros(10_000_000, 1)
targets = torch.zeros(10_000_000)
loss = (predictions - targets).pow(2).mean()
"""
MENDED = """
import torch

predictions = torch.zeros(10_000, 1)
targets = torch.zeros(10_000)
loss = (predictions.squeeze(1) - targets).pow(2).mean()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
