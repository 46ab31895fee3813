"""A model without anything to train was wrapped in DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-21", "ddp-no-gradient", "0.2"
TITLE = "DistributedDataParallel is not needed when a module doesn't have any parameters that require a gradient."
RAISES = ("RuntimeError", "AssertionError")
NEEDLES = ("DistributedDataParallel is not needed when",)
PATTERNS = (
    r"DistributedDataParallel is not needed when a module doesn't have any parameters? that requires? a gradient",
)
OLD = (
    "AssertionError: DistributedDataParallel is not needed when a module doesn't have any parameters that require a gradient.",
)
WHY = "DDP averages gradients. A frozen teacher, a loss module without parameters, or a model whose parameters were all frozen by mistake has none."
CHECK = "`[name for name, p in model.named_parameters() if p.requires_grad]`."


def explain(event: Event) -> Iterator[Cause]:
    """Frozen on purpose or by mistake."""
    if not event.message:
        return
    yield Cause(
        CODE,
        NAME,
        what="DistributedDataParallel was given a module in which nothing requires gradients",
        why="it is frozen, or has no parameters (a loss); there is nothing to average",
        fix=(
            "model = model.to(device)   # without DDP, if it is frozen on purpose",
            "for p in model.head.parameters(): p.requires_grad = True   # in front of DDP, if a part is to be trained",
        ),
        likelihood="certain",
    )


EXAMPLE = """
from pathlib import Path

import torch.distributed as dist
from torch import nn

dist.init_process_group("gloo", init_method=f"file://{Path('store').resolve()}", rank=0, world_size=1)
teacher = nn.Linear(2, 2).requires_grad_(False)
nn.parallel.DistributedDataParallel(teacher)
"""
MENDED = """
from pathlib import Path

import torch.distributed as dist
from torch import nn

dist.init_process_group("gloo", init_method=f"file://{Path('store').resolve()}", rank=0, world_size=1)
teacher, student = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)
nn.parallel.DistributedDataParallel(student)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
