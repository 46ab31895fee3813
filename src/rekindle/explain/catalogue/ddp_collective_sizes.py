"""The tensors or the root of a collective do not fit together."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-23", "ddp-collective-sizes", "0.2"
TITLE = "ProcessGroupGloo::allgather: invalid tensor size at index 0 (expected (3), got (2))"
RAISES = ("RuntimeError", "ValueError")
NEEDLES = ("ProcessGroupGloo::", "output tensor size must be equal to world_size", "Tensor list must be nonempty")
PATTERNS = (
    r"ProcessGroupGloo::(?P<call>\w{1,40}): invalid tensor size at index (?P<index>\d+) \(expected \((?P<want>[\d, ]*)\), got \((?P<got>[\d, ]*)\)\)",
    r"ProcessGroupGloo::(?P<call>\w{1,40}): invalid output tensor list at index \d+ \(expected length (?P<want>\d+), got (?P<length>\d+)\)",
    r"ProcessGroupGloo::(?P<call>\w{1,40}): invalid root rank: (?P<root>-?\d+)",
    r"(?P<into>output tensor size must be equal to world_size times input tensor size)",
)
OLD: tuple[str, ...] = ()
WHY = "`all_gather` takes a list with one tensor for each rank, all of the shape of what each rank gives. Batches of different size (the last one) or detections of different number have to be padded, or sent as objects."
CHECK = "On each rank: the shape of what is given; `dist.get_world_size()` and the length of the list."


def explain(event: Event) -> Iterator[Cause]:
    """Sizes, the length of the list, or the root."""
    facts = event.facts
    call = facts.get("call") or "all_gather_into_tensor"
    if facts.get("root"):
        what, why = (
            f"{call} was told rank {facts['root']} as its source, which is not in the group",
            "ranks count from 0 to world_size - 1",
        )
        fix: tuple[str, ...] = ("dist.broadcast(x, src=0)",)
    elif facts.get("length"):
        what, why = (
            f"{call} was given {facts['length']} places for {facts['want']} {'rank' if facts['want'] == '1' else 'ranks'}",
            "it needs one for each rank of the group",
        )
        fix = ("places = [torch.empty_like(x) for _ in range(dist.get_world_size())]",)
    elif facts.get("into"):
        what, why = (
            "the output of all_gather_into_tensor has another size than world_size times the input",
            "every rank gives as much as the others",
        )
        fix = ("out = x.new_empty(dist.get_world_size() * x.shape[0], *x.shape[1:])",)
    else:
        what, why = (
            f"{call} has a place of ({facts['got']}) for a tensor of ({facts['want']})",
            "all ranks give tensors of one shape",
        )
        fix = (
            "places = [torch.empty_like(x) for _ in range(dist.get_world_size())]",
            "dist.all_gather_object(places, x)   # where sizes differ from rank to rank; slower, unpickles what the other ranks send (code could run: trusted ranks only)",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo", init_method=f"file://{Path('store').resolve()}", rank=0, world_size=1)
scores = torch.rand(3)
dist.all_gather([torch.empty(2)], scores)
"""
MENDED = """
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo", init_method=f"file://{Path('store').resolve()}", rank=0, world_size=1)
scores = torch.rand(3)
dist.all_gather([torch.empty_like(scores) for _ in range(dist.get_world_size())], scores)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
