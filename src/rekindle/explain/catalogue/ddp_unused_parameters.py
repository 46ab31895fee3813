"""Some parameters got no gradient in the last step under DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-08", "ddp-unused-parameters", "0.2"
TITLE = "RuntimeError: Expected to have finished reduction in the prior iteration before starting a new one"
RAISES = ("RuntimeError",)
NEEDLES = ("Expected to have finished reduction in the prior iteration",)
PATTERNS = (
    r"Expected to have finished reduction in the prior iteration[\s\S]{0,3000}?Parameter indices which did not receive grad for rank (?P<rank>\d+): (?P<indices>[\d ]+)",
    r"Expected to have finished reduction in the prior iteration[\s\S]{0,3000}?Parameters which did not receive grad for rank (?P<rank>\d+): (?P<names>[^\n]+)",
    r"Expected to have finished reduction in the prior iteration",
)
OLD = (
    "RuntimeError: Expected to have finished reduction in the prior iteration before starting a new one. This error indicates that your module has parameters that were not used in producing its output (the return value of forward).",
)
WHY = (
    "DDP waits for the gradient of every parameter, to average it over the ranks. A branch or head that was not used in this"
    " step, a layer that is defined and forgotten, or an output that has no part in the loss gets none, and the next step finds"
    " the last one unfinished."
)
CHECK = (
    "`TORCH_DISTRIBUTED_DEBUG=DETAIL` prints names; or after one `backward` without DDP:"
    " `[name for name, p in model.named_parameters() if p.grad is None]`. Are they the same in every step?"
)


def explain(event: Event) -> Iterator[Cause]:
    """Which parameters, by name where torch says it, else by index."""
    names = [name.strip() for name in event.facts.get("names", "").split(",") if name.strip()]
    indices = event.facts.get("indices", "").split()
    count = len(names) or len(indices)
    which = f": {listed(names)}" if names else f" (number {listed(indices, 6)})" if indices else ""
    parameters = f"{count} {'parameter' if count == 1 else 'parameters'}" if count else "some parameters"
    layers = sorted({name.rpartition(".")[0] for name in names if "." in name})
    fix = []
    if indices:
        fix.append(
            f"names = [name for name, p in model.module.named_parameters() if p.requires_grad]; print([names[i] for i in ({', '.join(indices[:8])},)])"
        )
    elif not names:
        fix.append("print([name for name, p in model.named_parameters() if p.grad is None])   # after backward")
    fix += [
        f"model.{layers[0]}.requires_grad_(False)   # before DDP(model); or remove what is never used"
        if layers
        else "layer.requires_grad_(False)   # before DDP(model), or remove it, if it is never used",
        "DDP(model, find_unused_parameters=True)   # if it changes from step to step; costs a walk through the graph",
        "loss = main + 0.0 * aux.sum()   # if an output of forward has no part in the loss",
    ]
    yield Cause(
        CODE,
        NAME,
        what=f"{parameters} got no gradient in the last step{which}",
        why="DDP waits for the gradient of each of them: a branch that was not used, a forgotten layer, or an output that is not in the loss",
        fix=tuple(fix),
        likelihood="certain",
    )


_MAKE = """
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.auxiliary = nn.Linear(2, 2)

    def forward(self, x):
        return self.body(x)

dist.init_process_group("gloo", init_method=f"file://{os.path.abspath('store')}", rank=0, world_size=1)
net = Net()
%s
model = DistributedDataParallel(net)
for step in range(2):
    model(torch.ones(1, 2)).sum().backward()
"""
EXAMPLE = _MAKE % ""
MENDED = _MAKE % "net.auxiliary.requires_grad_(False)"
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
