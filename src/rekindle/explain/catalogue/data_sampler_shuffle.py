"""A loader got a sampler and shuffle=True, which both decide the order."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-13", "data-sampler-shuffle", "0.2"
TITLE = "ValueError: sampler option is mutually exclusive with shuffle"
RAISES = ("ValueError",)
NEEDLES = ("mutually exclusive with", "expected unspecified shuffle option")
PATTERNS = (
    r"(?P<sampler>batch_sampler|sampler) (?:option )?is mutually exclusive with (?P<other>[\w ,]+)",
    r"with IterableDataset: (?P<iterable>expected unspecified) (?P<other>shuffle|sampler|batch_sampler) option",
)
OLD = (
    "ValueError: sampler is mutually exclusive with shuffle",
    "ValueError: batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last",
    "ValueError: DataLoader with IterableDataset: expected unspecified shuffle option, but got shuffle=True",
)
WHY = (
    "`shuffle=True` makes a random sampler; a sampler of one's own decides the order itself. With several processes the"
    " shuffle belongs into the `DistributedSampler`, which gives each rank its own part. A `batch_sampler` decides the batch"
    " size too; an `IterableDataset` decides everything."
)
CHECK = "The arguments of the call."


def explain(event: Event) -> Iterator[Cause]:
    """Which of them exclude each other."""
    sampler, other = event.facts.get("sampler", ""), event.facts["other"]
    if event.facts.get("iterable"):
        what = f"{other} was given for an IterableDataset"
        why = "such a data set is read in the order in which it gives its samples"
        fix: tuple[str, ...] = (
            f"DataLoader(dataset, batch_size=32)   # without {other}",
            "shuffle in its __iter__, with a buffer of samples",
        )
    elif sampler == "batch_sampler":
        what = "a batch_sampler was given together with what it decides itself"
        why = "it gives whole lists of numbers: order, batch size and what is dropped are its own"
        fix = ("DataLoader(dataset, batch_sampler=batches)   # without batch_size, shuffle, sampler, drop_last",)
    else:
        what = "a sampler and shuffle=True were both given"
        why = "both decide the order; with several processes the shuffle belongs to the sampler"
        fix = (
            "DataLoader(dataset, sampler=DistributedSampler(dataset, shuffle=True), shuffle=False)",
            "DataLoader(dataset, sampler=sampler, shuffle=(sampler is None))   # for one process and for several",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
from torch.utils.data import DataLoader, DistributedSampler

numbers = list(range(8))
sampler = DistributedSampler(numbers, num_replicas=2, rank=0)
DataLoader(numbers, sampler=sampler, shuffle=True)
"""
MENDED = """
from torch.utils.data import DataLoader, DistributedSampler

numbers = list(range(8))
sampler = DistributedSampler(numbers, num_replicas=2, rank=0, shuffle=True)
DataLoader(numbers, sampler=sampler)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
