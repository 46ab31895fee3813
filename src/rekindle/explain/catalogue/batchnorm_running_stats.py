"""Batch norm layers that are frozen still change, or use the batch's statistics in evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-15", "batchnorm-running-stats", "0.2"
TITLE = "training and evaluation differ with BatchNorm (frozen layers in train mode, track_running_stats=False)"
OLD: tuple[str, ...] = ()
RAISES = ()
NEEDLES = ()
PATTERNS = ()
WHY = (
    "Batch norm has weights, which `requires_grad_(False)` freezes, and averages, which it does not: in training mode every"
    " forward pass updates them. Frozen layers need `eval()` as well, and again after each `model.train()`. With"
    " `track_running_stats=False` there are no averages: the statistics of the batch at hand are used in evaluation too, so that"
    " results depend on the batch."
)
CHECK = "`[name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]`; `m.running_mean is None`."


def explain(event: Event) -> Iterator[Cause]:  # noqa: ARG001 - nothing is printed that could be read
    """Nothing is raised; the page alone speaks of it."""
    yield from ()


_MAKE = """
import torch
from torch import nn

torch.manual_seed(0)
body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).requires_grad_(False)
model = nn.Sequential(body, nn.Flatten(), nn.LazyLinear(2))
before = body[1].running_mean.clone()
model.train()
"""
EXAMPLE = f"""{_MAKE}
model(torch.randn(8, 3, 8, 8))
assert not torch.equal(before, body[1].running_mean)  # frozen, and changed
"""
MENDED = f"""{_MAKE}
body.eval()  # after each model.train()
model(torch.randn(8, 3, 8, 8))
assert torch.equal(before, body[1].running_mean)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
