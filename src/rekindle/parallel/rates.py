"""Learning rates when the number of processes changes, and with it the batch of all of them.

A batch that is k times as large has a mean gradient with less noise, and allows larger steps: k times (``linear``,
Goyal et al. 2017) or the root of k (``sqrt``). This file only multiplies; which factor is asked for by the script.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["scale_rates"]

# Settings of a group that are learning rates: its own, where a schedule began, and the bounds of cyclic ones.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "base_lr")


def scale_rates(factor: float, objects: Iterable[object]) -> None:
    """Multiply the learning rates of optimizers and schedulers in place; other objects are left alone.

    Args:
        factor: above 0.
        objects: an optimizer together with its schedulers, which remember rates of their own.
    """
    for value in objects:
        if isinstance(value, torch.optim.Optimizer):
            for group in value.param_groups:
                for name in _RATES:
                    rate = group.get(name)
                    if isinstance(rate, torch.Tensor):
                        rate.mul_(factor)
                    elif isinstance(rate, (int, float)):
                        group[name] = rate * factor
        elif isinstance(value, LRScheduler):
            for name in ("base_lrs", "_last_lr"):
                rates = getattr(value, name, None)
                if isinstance(rates, list):
                    setattr(value, name, [rate * factor for rate in rates])
