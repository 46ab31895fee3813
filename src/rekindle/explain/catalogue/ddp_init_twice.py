"""init_process_group ran twice in one process."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-19", "ddp-init-twice", "0.2"
TITLE = "ValueError: trying to initialize the default process group twice!"
RAISES = ("ValueError", "RuntimeError")
NEEDLES = ("trying to initialize the default process group twice",)
PATTERNS = (r"trying to initialize the default process group twice",)
OLD = ("RuntimeError: trying to initialize the default process group twice!",)
WHY = "A process has one default group. Your own code and a framework (Lightning, Accelerate, DeepSpeed, Transformers' Trainer) both made it, or a notebook's cell ran again."
CHECK = "All places that call `init_process_group`; is a framework among them?"


def explain(event: Event) -> Iterator[Cause]:
    """A notebook's cell is told apart."""
    notebook = any(frame.path.startswith(("Cell In", "<ipython-input")) for frame in event.frames)
    yield Cause(
        CODE,
        NAME,
        what="init_process_group ran twice in this process",
        why="the cell ran before, and the group is still there"
        if notebook
        else "a framework made the group already, or the call stands in two places",
        fix=(
            "if not dist.is_initialized(): dist.init_process_group(...)",
            "dist.destroy_process_group()   # first, if it is to be another one",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import os

import torch.distributed as dist

for name in ("framework", "own"):
    store = f"file://{os.path.abspath(name)}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
"""
MENDED = """
import os

import torch.distributed as dist

for name in ("framework", "own"):
    store = f"file://{os.path.abspath(name)}"
    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
