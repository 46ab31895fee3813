"""The ranks built different models."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-14", "ddp-params-differ", "0.2"
TITLE = "RuntimeError: DDP expects same model across all ranks, but Rank 1 has 4 params, while rank 0 has inconsistent 2 params."
RAISES = ("RuntimeError",)
NEEDLES = (
    "DDP expects same model across all ranks",
    "appears not to match sizes of the same param in process",
    "appears not to match strides of the same param in process",
)
PATTERNS = (
    r"DDP expects same model across all ranks, but Rank (?P<rank>\d+) has (?P<count>\d+) params, while rank (?P<other>\d+) has inconsistent (?P<other_count>\d+) params",
    r"\[(?P<rank>\d+)\]: params\[(?P<index>\d+)\] in this process with (?P<property>sizes|strides) \[(?P<shape>[\d, ]*)\] appears not to match \w+ of the same param in process (?P<other>\d+)",
)
OLD = (
    "RuntimeError: [1]: params[0] in this process with sizes [3, 2] appears not to match sizes of the same param in process 0.",
)
WHY = (
    "DDP compares the parameters of all ranks when the model is wrapped, and they are not alike: a number of classes that each"
    " rank computed from its own part of the data, another configuration or checkpoint on one node, a random architecture,"
    " lazy layers that saw other inputs."
)
CHECK = "`sum(1 for _ in model.parameters())`, `print(model)` and the configuration, on each rank."


def explain(event: Event) -> Iterator[Cause]:
    """Both counts, or the first parameter whose shape differs."""
    facts = event.facts
    if facts.get("count"):
        what = f"rank {facts['rank']} has {facts['count']} parameters, rank {facts['other']} has {facts['other_count']}"
    else:
        what = f"parameter {facts['index']} has the {facts['property']} [{facts['shape']}] on rank {facts['rank']} and others on rank {facts['other']}"
    number = facts.get("index") or "0"
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="the ranks built different models: a number of classes from each rank's own part of the data, another configuration, or a random choice",
        fix=(
            f"print(list(model.named_parameters())[{number}][0], model)   # on each rank, in front of DDP(model)",
            "classes = sorted(set(all_labels))   # from the same whole data on every rank, not from its part of it",
            "torch.manual_seed(0)   # in front of building the model, if its form is drawn at random",
        ),
        likelihood="certain",
    )


_MAKE = """
import os

import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

def work(rank):
    store = f"file://{os.path.abspath('store')}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    classes = %s
    DistributedDataParallel(nn.Linear(2, classes))
    dist.destroy_process_group()

mp.start_processes(work, nprocs=2, start_method="fork")
"""
EXAMPLE = _MAKE % "10 + rank"
MENDED = _MAKE % "11"
REQUIRES = ("process", "linux")
MESSAGE = ""
