"""A parameter had two gradients in one backward pass under DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-09", "ddp-ready-twice", "0.2"
TITLE = "RuntimeError: Expected to mark a variable ready only once"
RAISES = ("RuntimeError",)
NEEDLES = ("Expected to mark a variable ready only once",)
PATTERNS = (
    r"Expected to mark a variable ready only once[\s\S]{0,3000}?Parameter at index (?P<index>\d+)(?: with name (?P<name>\S+))? has been marked as ready twice",
    r"Expected to mark a variable ready only once",
)
OLD = (
    "RuntimeError: Expected to mark a variable ready only once. This error is caused by one of the following reasons: 1) Use of a module parameter outside the `forward` function.",
)
WHY = (
    "DDP sends a parameter's gradient once it is ready, and then it came a second time. Mostly reentrant activation"
    " checkpointing (`use_reentrant=True`, the old default) runs a backward pass inside the backward pass, and a layer is used"
    " in two checkpoints or `find_unused_parameters=True` is set. Else the parameter was used outside of `forward`, or two"
    " forward passes came before one backward."
)
CHECK = "The parameter's name (with `TORCH_DISTRIBUTED_DEBUG=DETAIL`); `use_reentrant`; gradient checkpointing in the trainer's settings."


def explain(event: Event) -> Iterator[Cause]:
    """The parameter by its name or index."""
    name, index = event.facts.get("name", ""), event.facts.get("index", "")
    who = f"the parameter {name}" if name else f"parameter {index}" if index else "a parameter"
    checkpoint = "checkpoint" in " ".join(frame.path + frame.code for frame in event.frames)
    yield Cause(
        CODE,
        NAME,
        what=f"{who} had two gradients in one backward pass",
        why="reentrant activation checkpointing of a layer that is used twice, or together with find_unused_parameters"
        + (
            ""
            if checkpoint
            else "; else the parameter is used outside of forward, or two forward passes come before one backward"
        ),
        fix=(
            "checkpoint(layer, x, use_reentrant=False)   # the newer way, which DDP can follow",
            'TrainingArguments(gradient_checkpointing_kwargs={"use_reentrant": False})   # in Transformers',
            "DDP(model, static_graph=True)   # if every step uses the same layers",
        ),
        likelihood="certain" if checkpoint else "likely",
    )


_MAKE = """
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(2, 2)

    def forward(self, x):
        x = checkpoint(self.shared, x, use_reentrant=%s)
        return checkpoint(self.shared, x, use_reentrant=%s)

dist.init_process_group("gloo", init_method=f"file://{os.path.abspath('store')}", rank=0, world_size=1)
model = DistributedDataParallel(Net(), find_unused_parameters=True)
model(torch.ones(1, 2, requires_grad=True)).sum().backward()
"""
EXAMPLE = _MAKE % (True, True)
MENDED = _MAKE % (False, False)
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
